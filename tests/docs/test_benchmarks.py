"""The benchmarks run with small sizes and print the right rows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from benchmarks import (
    __main__ as bench,
)
from benchmarks import (
    bench_apply,
    bench_bulk,
    bench_bytes,
    bench_dispatch,
    bench_locks,
    bench_memory,
    bench_node,
    bench_placement,
    bench_scale,
    bench_simulate,
    bench_trace,
    contenders,
    replay_task,
)
from benchmarks.common import Figure
from benchmarks.contenders import NAMES
from benchmarks.row import COLUMNS, Row
from benchmarks.trace import ideal, jobs_of
from celery_minsched.simulation.trace import Job, Node, read, synthesize


def run(command: Command, arguments: str) -> list[list[str]]:
    """Run a benchmark. Returns the cells of all rows that it prints."""
    result = CliRunner().invoke(command, shlex.split(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.benchmarks
def test_bench_dispatch_compares_numbers_of_nodes_sessions_and_jobs() -> None:
    rows = run(bench_dispatch.main, "--nodes 2 --nodes 20 --rounds 2 --jobs 5 --stored 3")
    assert [row[0] for row in rows] == [
        *("nodes", "2", "20"),
        *("", "pool, no session, no line"),
        *("step", "dispatch", "complete", "complete, with the claim of the next job"),
        *("other data in Redis", "nothing", "3 ended jobs, a session each", "3 waiting jobs"),
    ]
    assert [rows[1][2], rows[10][2]] == ["1.00", "1.00"]


@pytest.mark.benchmarks
def test_bench_bulk_compares_dispatch_many_with_single_calls_and_plain_celery() -> None:
    rows = run(bench_bulk.main, "--tasks 5 --rounds 1 --round-trip 0.1")
    assert [row[0] for row in rows] == [
        *("Redis", "here, slots free", "here, slots taken"),
        *("0.1 ms away, slots free", "0.1 ms away, slots taken"),
    ]
    assert all(float(row[-1].split()[0]) > 0 for row in rows[1:])


@pytest.mark.benchmarks
def test_bench_apply_compares_apply_async_with_plain_celery() -> None:
    rows = run(bench_apply.main, "--calls 20 --rounds 2")
    assert [row[0] for row in rows] == ["", "plain Celery", "placed", "sticky", "waiting"]
    assert rows[1][2] == "1.00 (1.00 to 1.00)"  # plain Celery compared with itself


@pytest.mark.benchmarks
def test_bench_node_compares_the_rate_and_the_idle_time_of_nodes_and_workers() -> None:
    kinds = ["tuned", "unprefetched", "dramatiq", "taskiq"]
    options = " ".join(f"--contender {kind}" for kind in kinds)
    rows = run(
        bench_node.main, f"--pool threads --slots 2 --noops 20 --naps 8 --rounds 1 {options}"
    )
    assert [row[0] for row in rows[1:]] == [f"threads, {NAMES[kind]}" for kind in ("ours", *kinds)]
    assert [rows[1][2], rows[1][4]] == ["1.00 (1.00 to 1.00)"] * 2  # ours against ours


@pytest.mark.benchmarks
def test_bench_bytes_compares_a_node_with_a_plain_worker() -> None:
    rows = run(bench_bytes.main, "--messages 2 --size 3000 --contender ours --contender tuned")
    assert [row[0] for row in rows[1:]] == [NAMES["ours"], NAMES["tuned"]]
    assert all(int(row[1].replace(",", "")) > 100 for row in rows[1:])


@pytest.mark.benchmarks
def test_make_bench_prints_a_row_for_each_goal() -> None:
    rows = run(bench.main, "--short")
    goals = rows[rows.index(list(COLUMNS)) + 1 :]
    assert all(row[3] in ("yes", "no") for row in goals)
    assert len(goals) == 22


def test_a_goal_is_met_in_the_digits_that_the_table_shows() -> None:
    figure = Figure.of([1.049])
    row = Row("a", "≤", 1.05, figure, show="{:.2f}".format)
    assert row.cells() == ["a", "≤ 1.05", "1.05", "yes"]
    row = Row("a", "≤", 1.04, figure, beside="tuned's ")
    assert row.cells() == ["a", "≤ tuned's 1.04", "1.05", "no"]
    row = Row("a", "≥", 1.2, Figure.of([1.1, 1.2, 1.3]))
    assert row.cells() == ["a", "≥ 1.2", "1.20 (1.15 to 1.25)", "yes"]
    row = Row("a", "≤", 2000, Figure.of([1_234_567]))
    assert row.cells() == ["a", "≤ 2,000", "1,234,567", "no"]


@pytest.mark.benchmarks
def test_bench_locks_compares_scripts_with_locks() -> None:
    rows = run(bench_locks.main, "--nodes 5 --dispatchers 5 --rounds 1 --seconds 0.2")
    assert [row[0] for row in rows] == [
        *("dispatchers", "5, ours", "5, one Redis lock", "5, a mutex behind a server"),
    ]
    assert rows[1][2] == "1.00 (1.00 to 1.00)"  # ours against ours


@pytest.mark.benchmarks
def test_bench_memory_measures_a_node_and_a_job_in_each_state() -> None:
    rows = run(bench_memory.main, "--count 200")
    assert [row[0] for row in rows[1:]] == list(bench_memory.THINGS)
    sizes = {row[0]: int(row[2].replace(",", "")) for row in rows[1:]}
    assert sizes["a waiting job, with its message of 1 KB"] > 1024 + sizes["a running job"] / 2
    assert min(sizes.values()) > 100


@pytest.mark.benchmarks
@pytest.mark.parametrize("case", bench_scale.CASES)
def test_each_step_of_bench_scale_has_the_right_outcome(case: str) -> None:
    rows = run(bench_scale.main, f"--sizes small --tries 1 --only {case}")
    assert rows[0] == list(bench_scale.COLUMNS)
    assert not [row for row in rows if row[-1].startswith("WRONG")]


@pytest.mark.benchmarks
def test_bench_scale_fails_and_names_a_script_above_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_scale, "LIMIT_MS", 0.0)
    monkeypatch.setitem(bench_scale.SIZES, "full", bench_scale.SIZES["small"])
    result = CliRunner().invoke(bench_scale.main, ["--only", "large_rescue", "--tries", "2"])
    assert result.exit_code == 1
    assert re.search(r"rescue_node \(400 jobs .*\): rescue_node ran for .* ms", result.output)


@pytest.mark.benchmarks
def test_bench_trace_replays_a_trace_on_nodes_and_on_plain_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = [Node("only", 4, ("a", "b"))]
    scenario = bench_trace.Scenario(nodes, {"a": 3, "b": 1})
    monkeypatch.setitem(bench_trace.SCENARIOS, "one pool", scenario)
    plot = tmp_path / "plot.png"
    rows = run(
        bench_trace.main,
        f"--seconds 0.5 --work 0.05 --plot {plot} --scenario 'one pool' "
        "--contender ours --contender tuned",
    )
    assert [row[0] for row in rows[1:]] == [
        f"one pool, {NAMES[kind]}" for kind in ("ours", "tuned")
    ]
    assert all(float(row[3]) > 0.99 for row in rows[1:])
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.benchmarks
def test_bench_placement_replays_the_same_jobs_with_other_queues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [Node("only", 2, ("a", "b"))]
    scenario = bench_placement.Scenario(nodes, {"a": 1, "b": 1}, sessions=3)
    monkeypatch.setitem(bench_placement.SCENARIOS, "equal nodes", scenario)
    kinds = ["random", "rq", "dramatiq", "taskiq"]
    options = [f"--contender {kind}" for kind in kinds]
    rows = run(
        bench_placement.main,
        f"--scenario 'equal nodes' --seconds 0.5 --work 0.05 {' '.join(options)}",
    )
    assert [row[0] for row in rows[1:]] == [NAMES[kind] for kind in kinds]
    assert all(float(row[3]) > 0.99 for row in rows[1:])


def test_the_contenders_choose_queues_in_proportion_to_the_slots() -> None:
    nodes = [Node("big", 4, ("a",)), Node("small", 2, ("a", "b"))]
    send_to = contenders._destination("rotating", nodes)
    queues = [send_to(Job(0.0, 1.0, "a"))["queue"] for _ in range(12)]
    assert queues[:6] == ["big", "small", "big", "big", "small", "big"]
    assert queues[6:] == queues[:6]
    assert send_to(Job(0.0, 1.0, "b")) == {"queue": "small"}
    chosen = contenders._destination("random", nodes)
    at_random = [chosen(Job(0.0, 1.0, "a"))["queue"] for _ in range(600)]
    assert at_random.count("big") == pytest.approx(400, abs=50)


def test_a_node_of_the_replay_caches_the_latest_sessions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REPLAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPLAY_CACHED", "2")
    warm = [replay_task.is_warm(session) for session in ("s1", "s2", "s1", "s3", "s1", "s2")]
    assert warm == [False, False, True, False, True, False]


@pytest.mark.benchmarks
def test_bench_simulate_compares_a_simulation_with_a_real_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [Node("only", 4, ("a", "b"))]
    scenario = bench_trace.Scenario(nodes, {"a": 3, "b": 1})
    monkeypatch.setattr(bench_simulate, "SCENARIOS", {"small": scenario})
    rows = run(bench_simulate.main, "--seconds 1 --work 0.1")
    assert rows[1][0] == "small, with each job's overhead"
    measured, simulated, ratio = map(float, rows[1][1:4])
    assert ratio == pytest.approx(simulated / measured, rel=0.05)
    overhead = re.fullmatch("small, with an overhead of (.+) ms", rows[2][0])
    assert overhead
    assert float(overhead[1]) > 0


def test_jobs_have_the_requested_load_and_the_arrival_times_of_the_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02}.0000000,{100 + second},10" for second in range(0, 60, 2)]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
    jobs = jobs_of(read(file), seconds=2.0, work=0.4, busy=0.75, shares={"a": 3, "b": 1})
    assert len(jobs) == 15
    assert sum(job.work for job in jobs) == pytest.approx(0.75 * 4 * 2.0)
    assert [job.at for job in jobs] == pytest.approx([2.0 * n / 14 for n in range(15)])
    assert jobs[14].work / jobs[0].work == pytest.approx(138 / 110)
    with pytest.raises(ValueError, match="the trace has 30"):
        jobs_of(read(file), seconds=60.0, work=0.4, busy=0.75, shares={"a": 4})


def test_the_synthetic_trace_is_bursty_and_its_sizes_have_a_long_tail() -> None:
    requests = synthesize(20_000)
    assert len(requests) / requests[-1][0] == pytest.approx(5.5, rel=0.2)
    sizes = sorted(tokens for _, tokens in requests)
    assert sizes[-200] > 3 * sizes[10_000]
    counts = [0] * (int(requests[-1][0] / 60) + 1)
    for at, _ in requests:
        counts[int(at / 60)] += 1
    mean = sum(counts) / len(counts)
    assert sum((count - mean) ** 2 for count in counts) / len(counts) > 3 * mean  # Poisson: mean


def test_the_ideal_queue_is_first_come_first_served_and_saves_rare_slots() -> None:
    single = [Node("n", 1, ("a",))]
    jobs = [Job(0.0, 2.0, "a"), Job(0.5, 1.0, "a"), Job(5.0, 1.0, "a")]
    assert ideal(jobs, single) == [2.0, 2.5, 1.0]
    overlapping = [Node("both", 1, ("a", "b")), Node("only-a", 1, ("a",))]
    jobs = [Job(0.0, 4.0, "a"), Job(1.0, 1.0, "b"), Job(1.5, 1.0, "a"), Job(1.6, 1.0, "b")]
    assert ideal(jobs, overlapping) == [4.0, 1.0, 1.5, pytest.approx(2.4)]
