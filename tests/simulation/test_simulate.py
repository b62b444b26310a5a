"""A simulation runs the real scripts with a virtual clock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis
from celery import Celery

from benchmarks.trace import ideal
from celery_minsched.cli.simulate import empty_database
from celery_minsched.consistency.checker import Checker
from celery_minsched.core import lua_source
from celery_minsched.core.keys import Keys
from celery_minsched.monitor.queries import Views
from celery_minsched.simulation import clock, play
from celery_minsched.simulation.play import simulate
from celery_minsched.simulation.trace import Job, Node, jobs_of, repeat, synthesize

from ..support.commands import run_with
from ..support.server import Server

TRIO = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]


@pytest.fixture(scope="module")
def app() -> Celery:
    """An application with an unreachable broker. A simulation does not need it."""
    return Celery("absent", broker="redis://127.0.0.1:1/0", set_as_current=False)


def some_jobs(count: int, busy: float = 0.9) -> list[Job]:
    return jobs_of(synthesize(count), count * 0.3 / (busy * 14), 0.3, {"a": 1})


@pytest.mark.parametrize("name", clock._SCRIPTS)
def test_a_script_for_the_virtual_clock_differs_only_in_its_time(name: str) -> None:
    real, virtual = lua_source.source(name).splitlines(), clock._source(name).splitlines()
    [changed] = [pair for pair in zip(real, virtual, strict=True) if pair[0] != pair[1]]
    assert changed == ("local time = redis.call('TIME')", "local time = {0, KEYS[3]}")
    assert not any("KEYS[3]" in line for line in real)


def test_jobs_of_one_pool_wait_as_long_as_in_an_ideal_queue(client: redis.Redis) -> None:
    jobs = some_jobs(600)
    result = simulate(client, jobs, TRIO)
    responses = ideal(jobs, TRIO)
    assert result.responses.mean == pytest.approx(sum(responses) / len(responses))
    assert result.responses.longest == pytest.approx(max(responses))
    assert result.waits.longest > 0.1


def test_the_batch_size_does_not_change_the_result(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = some_jobs(300)
    results = []
    for batch in (1, 500):
        client.flushall()
        monkeypatch.setattr(play, "MAX_EVENTS", batch)
        results.append(simulate(client, jobs, TRIO, overhead=0.02))
    times = {"redis_us_per_job", "redis_us_per_heartbeat", "redis_share"}
    assert results[0].model_dump(exclude=times) == results[1].model_dump(exclude=times)


def test_the_overhead_occupies_the_slot_and_does_not_count_as_waiting(client: redis.Redis) -> None:
    nodes = [Node("n", 1, ("a",))]
    result = simulate(client, [Job(0.0, 2.0, "a"), Job(1.0, 1.0, "a")], nodes, overhead=0.5)
    assert result.waits.longest == pytest.approx(1.5)
    assert result.responses.longest == pytest.approx(3.0)
    assert (result.seconds, result.utilisation) == (4.0, 1.0)


def test_a_simulation_leaves_no_keys_of_jobs(client: redis.Redis) -> None:
    simulate(client, some_jobs(300), TRIO)
    left = [key for key in client.scan_iter("*") if ":job:" in key or ":task:" in key]
    assert left == ["scheduler:job:id_seq"]
    assert Checker(Views(client, Keys())).check() == []


def test_a_job_for_a_pool_without_nodes_is_refused(client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="pool b has no node"):
        simulate(client, [Job(0.0, 1.0, "b")], TRIO)
    assert client.dbsize() == 0


def test_a_trace_is_repeated_at_its_own_rate() -> None:
    requests = repeat([(100.0, 7.0), (101.0, 8.0), (102.0, 9.0)], 5)
    assert requests == [(100, 7), (101, 8), (102, 9), (103, 7), (104, 8)]


def test_the_same_jobs_wait_less_on_more_nodes(app: Celery) -> None:
    command = ["simulate", "--json", "--jobs", "400", "--node", "a=2,x"]
    few = json.loads(run_with(app, *command, "--busy", "0.95").output)
    rate = str(few["jobs_per_second"])
    more = json.loads(run_with(app, *command, "--node", "b=4,x", "--rate", rate).output)
    assert more["jobs_per_second"] == pytest.approx(few["jobs_per_second"])
    assert more["waits"]["mean"] < few["waits"]["mean"]
    assert (few["nodes"], few["slots"], more["nodes"], more["slots"]) == (1, 2, 2, 6)


def test_the_output_shows_waits_by_pool_utilisation_and_redis(app: Celery, tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:15:{second:02}.0000000,{100 + second},10" for second in range(60)]
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows))
    nodes = ["--nodes", "2", "--slots", "2", "--node", "gpu=1,asr"]
    answer = run_with(app, "simulate", "--trace", str(file), *nodes)
    assert answer.exit_code == 0, answer.output
    assert "60 jobs" in answer.output
    assert "on 3 nodes with 5 slots" in answer.output
    for text in ("waits, pool asr", "waits, pool default", "fairness", "of a core"):
        assert text in answer.output


def test_two_simulations_can_run_at_the_same_time() -> None:
    with empty_database(None) as first, empty_database(None) as second:
        first.set("key", "value")
        assert second.dbsize() == 0


def test_a_database_with_data_is_refused(app: Celery, server: Server, client: redis.Redis) -> None:
    client.set("mine", "1")
    command = ["simulate", "--nodes", "1", "--jobs", "10", "--redis", server.url]
    answer = run_with(app, *command)
    assert answer.exit_code == 2
    assert "is not empty" in answer.output
    assert client.keys() == ["mine"]
    client.delete("mine")
    assert run_with(app, *command).exit_code == 0
    assert client.dbsize() == 0


def test_the_password_of_a_database_is_not_shown(
    app: Celery, server: Server, client: redis.Redis
) -> None:
    client.set("mine", "1")
    command = ["simulate", "--nodes", "1", "--jobs", "10", "--redis"]
    for url in (
        server.url.replace("//", "//default:s3cret@"),
        "redis://u:s3cret",
        "redis://:s3cret#more@127.0.0.1/0",
        "s3cret@127.0.0.1",
    ):
        answer = run_with(app, *command, url)
        assert answer.exit_code == 2
        assert "s3cret" not in answer.output


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("", "there are no nodes"),
        ("--node gpu=x", "'gpu=x' is not a node like gpu-1=8,asr"),
        ("--node a:b=1,asr", "'a:b' is not a name"),
        ("--nodes 1 --busy 0.5 --rate 3", "not both"),
        (f"--nodes 1 --trace {__file__}", "is not a trace"),
    ],
)
def test_invalid_options_are_refused(app: Celery, options: str, error: str) -> None:
    answer = run_with(app, "simulate", *options.split())
    assert answer.exit_code == 2
    assert error in answer.output
