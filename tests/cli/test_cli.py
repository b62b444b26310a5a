"""``celery -A app minsched …``: each command says what it promises, to people and to scripts."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import click
import pytest
import redis
from celery import Celery
from celery.bin.control import control, inspect
from click.testing import Result
from kombu.utils.imports import symbol_by_name

from celery_minsched.cli import minsched
from celery_minsched.cli.command import EXIT_CODES, ExitCode
from celery_minsched.cli.why import VERDICT_EXIT_CODES, why
from celery_minsched.monitor.models import Event, JobView, LineView, NodeView, PoolView
from celery_minsched.plugin import remote

from ..support.commands import run_with
from ..support.desk import Desk, silence
from ..support.fleet import ROOT, Fleet, app_environment, make_app, wait_for
from ..support.server import Server

TASK = "6f1c1f2e-9d0a-4b7e-8a51-0d1f3c2b4a5{}"
Run = Callable[..., Result]


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = make_app(server.url)
    yield app
    app.close()


@pytest.fixture
def run(app: Celery) -> Run:
    return lambda *args, **given: run_with(app, *args, **given)


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """A full fleet with long names, in which jobs wait for each reason."""
    desk.node("gpu-1", 2, ["asr"], ["whisper-large-v3", "diarization", "punctuation"])
    desk.node("a-node-with-a-name-that-is-as-long-as-names-of-pods-get-7d9f8b6c5-x2x4z", 1)
    desk.node("cpu-1", 1, [{"id": "mt", "langs": [["zh", "en"], ["en", "zh"], ["de", "en"]]}])
    desk.beat("gpu-1", load_json='{"cpu": 12.5, "gpu": 97, "mem": 40}')
    for n in range(3):
        payload = json.dumps({"task": "speech.recognition.tasks.transcribe"})
        desk.dispatch(session_id=f"u{n}", task_id=TASK.format(n), payload_json=payload)
    for n in range(3, 6):
        desk.park(session_id="u3", task_id=TASK.format(n))
    desk.park(task_id=TASK.format(6), capabilities=["nobody-has-this"])
    due = desk.views.now() + 3_600_000
    desk.send(task_id=TASK.format(7), due_ts=due)
    return desk


LOOKS = (
    *("nodes", "pools", "jobs", "waiting", "events", "check", "top --once --interval 0.1"),
    f"why {TASK.format(0)}",
)


class TestLooking:
    @pytest.mark.parametrize("command", LOOKS)
    def test_a_command_fits_80_columns_and_has_no_colour_in_a_pipe(
        self, busy: Desk, run: Run, command: str
    ) -> None:
        result = run(*command.split())
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        if command != "events":  # no table but a log: a line each, for grep
            assert max(map(len, result.stdout.splitlines())) <= 80
        assert "\x1b" not in result.stdout

    @pytest.mark.parametrize("command", LOOKS)
    def test_a_command_that_looks_changes_nothing(
        self, busy: Desk, server: Server, run: Run, command: str
    ) -> None:
        def state() -> dict[bytes, tuple[bytes, bool]]:
            with redis.Redis(port=server.port) as raw:
                return {key: (raw.dump(key), raw.ttl(key) < 0) for key in raw.keys()}  # noqa: SIM118

        before = state()
        run(*command.split(), "--json")
        assert state() == before

    def test_an_empty_fleet_is_said_to_be_empty(self, run: Run) -> None:
        said = {name: run(name).stdout for name in ("nodes", "pools", "jobs", "waiting", "events")}
        assert said == {
            "nodes": "No node is registered.\n",
            "pools": "No pool has a node.\n",
            "jobs": "There is no such job.\n",
            "waiting": "No job waits.\n",
            "events": "",
        }
        assert "0 nodes, 0/0 slots, 0 waiting" in run("top", "--once", "--interval", "0.1").stdout
        assert json.loads(run("nodes", "--json").stdout) == []

    def test_nodes_says_who_is_full_and_who_is_dead(self, busy: Desk, run: Run) -> None:
        busy.node("gone", 2)
        silence(busy, "gone", 90_000)
        busy.service.declare_dead("gone")
        rows = {line.split()[0]: line for line in run("nodes").stdout.splitlines()}
        assert re.search(r"full +2/2 +12% +97% +40% ", rows["gpu-1"])
        assert re.search(r"free +0/1 ", rows["cpu-1"])
        assert re.search(r"dead +2/2 .* 1 m 3\d s ", rows["gone"])
        told = json.loads(run("nodes", "--json").stdout)
        assert {node["node_id"]: node["state"] for node in told}["gone"] == "dead"
        assert [NodeView.model_validate(node) for node in told] == busy.views.nodes()

    def test_pools_says_what_to_scale_by(self, busy: Desk, run: Run) -> None:
        assert re.search(r"^asr +open +2/2 +3/3 +4 +2\.33", run("pools").stdout, re.MULTILINE)
        told = json.loads(run("pools", "--json").stdout)
        assert [PoolView.model_validate(pool) for pool in told] == busy.views.pools()
        assert told[0]["load"] == pytest.approx(7 / 3)

    def test_jobs_can_be_narrowed_down(self, busy: Desk, run: Run) -> None:
        def ids(*options: str) -> set[str]:
            return {
                JobView.model_validate(job).task_id[-1]
                for job in json.loads(run("jobs", "--json", *options).stdout)
            }

        assert ids() == set("01234567")
        assert ids("--status", "waiting") == set("3456")
        assert ids("--status", "delayed") == set("7")
        assert ids("--pool", "asr") == set("01234567")
        assert ids("--pool", "mt") == set()
        assert len(ids("--node", "gpu-1")) == 2
        assert len(ids("--limit", "3")) == 3
        said = run("jobs", "--limit", "3").stdout
        assert said.count(TASK[:-2]) == 3
        assert said.endswith("… and more. See --limit and --offset.\n")

    def test_a_long_line_is_shown_over_its_pages(self, desk: Desk, run: Run) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        for n in range(450):
            desk.park(task_id=f"t{n}")
        found = json.loads(run("jobs", "--json", "--status", "waiting", "--limit", "1000").stdout)
        assert [job["task_id"] for job in found] == [f"t{n}" for n in range(450)]

    def test_waiting_says_busy_or_impossible(self, busy: Desk, run: Run) -> None:
        said = run("waiting").stdout
        assert re.search(r"^asr +- +- +3 +\d\.\d s +busy", said, re.MULTILINE)
        assert re.search(r"^asr +nobody-has-this +- +1 +\d\.\d s +impossible", said, re.MULTILINE)
        told = json.loads(run("waiting", "--json").stdout)
        assert sorted(LineView.model_validate(line).waiting for line in told) == [1, 3]

    @pytest.mark.parametrize(
        ("task", "verdict", "code"),
        [("0", "placed", 0), ("3", "waiting", 3), ("7", "delayed", 3), ("6", "impossible", 4)],
    )
    def test_why_answers_with_an_exit_code(
        self, busy: Desk, run: Run, task: str, verdict: str, code: int
    ) -> None:
        result = run("why", TASK.format(task))
        assert (result.exit_code, verdict in result.stdout) == (code, True)
        told = run("why", TASK.format(task), "--json")
        assert (told.exit_code, json.loads(told.stdout)["verdict"]) == (code, verdict)

    def test_why_of_a_task_that_nobody_knows(self, run: Run) -> None:
        result = run("why", "nobody")
        assert result.exit_code == 1
        assert result.stdout.startswith("The scheduler knows no task 'nobody'")

    def test_why_lists_the_nodes_and_what_is_in_the_way(self, busy: Desk, run: Run) -> None:
        rows = run("why", TASK.format(3)).stdout.splitlines()
        assert any(re.fullmatch(r"gpu-1 +2/2 +12% +97% +40% +full *", row) for row in rows)
        assert any(re.fullmatch(r"cpu-1 +0/1 .* not in asr *", row) for row in rows)

    def test_events_come_oldest_first(self, busy: Desk, run: Run) -> None:
        said = run("events", "--limit", "2").stdout.splitlines()
        assert len(said) == 2
        assert re.match(rf"[\d-]+ [\d:]+  job_waited     job=u3:\d+ task={TASK[:-2]}5 ", said[0])
        told = json.loads(run("events", "--json").stdout)
        assert [Event.model_validate(event) for event in told] == busy.views.events()

    def test_top_shows_the_pace_between_two_looks(self, busy: Desk, run: Run) -> None:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                busy.complete(busy.dispatch(pool="mt"))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            said = run("top", "--once", "--interval", "0.3").stdout
            told = json.loads(run("top", "--once", "--interval", "0.3", "--json").stdout)
        finally:
            stop.set()
            thread.join()
        assert re.search(r"^gpu-1 +full +■■ +2/2 +12% ", said, re.MULTILINE)
        assert re.search(r"^jobs/s +\d+\.\d placed, ", said, re.MULTILINE)
        pace = told["pace"]
        assert min(pace["placed"], pace["ended"], pace["scripts"], pace["script_ms"]) > 0
        assert told["server"]["round_trip_ms"] > 0


class TestActing:
    def test_drain_and_undrain(self, busy: Desk, run: Run) -> None:
        for _ in range(2):
            said = run("drain", "gpu-1")
            assert said.stdout == "Node gpu-1 takes no new jobs. It has 2 jobs to finish.\n"
        assert json.loads(run("drain", "gpu-1", "--json").stdout)["state"] == "draining"
        assert run("undrain", "gpu-1").stdout == "Node gpu-1 takes jobs again.\n"
        assert busy.info("gpu-1").state == "full"

    def test_pause_and_resume(self, busy: Desk, run: Run) -> None:
        said = run("pause", "asr").stdout
        assert said == "Pool asr is paused. Jobs at its nodes: 3. Jobs in line: 4.\n"
        assert re.search(r"^asr +paused", run("pools").stdout, re.MULTILINE)
        assert json.loads(run("resume", "asr", "--json").stdout)["paused"] is False
        said = run("resume", "asr").stdout
        assert said == "Pool asr was not paused. Jobs at its nodes: 3. Jobs in line: 4.\n"

    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            ("drain gpu1", "there is no node 'gpu1'. Did you mean gpu-1?"),
            ("undrain x", "there is no node 'x'. minsched nodes shows all nodes."),
            ("rescue gpu-11", "there is no node 'gpu-11'. Did you mean gpu-1?"),
            ("pause as", "no node is registered in pool 'as'"),
            ("resume as", "no node is registered in pool 'as'"),
            ("rescue gpu-1", "node 'gpu-1' is alive: its last heartbeat was 0."),
            ("nods", "nodes"),
            ("jobs --status odd", "odd"),
        ],
    )
    def test_what_cannot_be_done_is_said_in_a_sentence(
        self, busy: Desk, run: Run, command: str, sentence: str
    ) -> None:
        busy.beat("gpu-1")
        result = run(*command.split())
        assert (result.exit_code, result.stdout) == (2, "")
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr

    def test_rescue_waits_until_a_live_node_has_seen_to_the_jobs(
        self, desk: Desk, client: redis.Redis, run: Run
    ) -> None:
        desk.node("n1", 2)
        runs, parked = desk.dispatch(task_id="a"), desk.dispatch(task_id="b")
        desk.service.claim_job(runs.job_id, "n1")
        client.lpush(desk.service.keys("job_queue", parked.job_id), "{}")
        silence(desk, "n1", 60_000)
        alone = run("rescue", "n1")
        assert alone.exit_code == 1
        assert " ".join(alone.stdout.split()) == (
            "Node n1 is dead. It had 2 jobs. No live node can rescue them now. The next node that "
            "starts will do it."
        )
        desk.node("n2", 2)
        stop = threading.Event()

        def live() -> None:
            while not stop.wait(0.02):
                desk.beat("n2")

        thread = threading.Thread(target=live)
        thread.start()
        try:
            result = run("rescue", "n1", "--json")
        finally:
            stop.set()
            thread.join()
        told = json.loads(result.stdout)
        assert (result.exit_code, told["rescued"]) == (0, True)
        assert {job["task_id"]: job["status"] for job in told["jobs"]} == {
            "a": "lost",
            "b": "dispatched",
        }


class TestExitCodes:
    def test_the_help_lists_the_exit_codes_of_a_command(self, run: Run) -> None:
        text = run("rescue", "--help").stdout
        codes = re.findall(r"^  (\d)  (\S.*)", text.partition("Exit codes:\n")[2], re.MULTILINE)
        assert [code for code, _ in codes] == ["0", "1", "2"]
        assert dict(codes)["2"] == EXIT_CODES[ExitCode.FAILED]

    def test_each_verdict_of_why_has_a_documented_exit_code(self) -> None:
        assert set(VERDICT_EXIT_CODES.values()) == why.exit_codes.keys()


class TestTrouble:
    def test_an_application_without_a_scheduler(self) -> None:
        result = run_with(Celery("bare", set_as_current=False), "nodes")
        assert result.exit_code == 2
        assert "the application 'bare' has no scheduler. Write MinSched(app)" in result.stderr

    def test_redis_is_away(self, no_pauses: None) -> None:
        result = run_with(make_app("redis://127.0.0.1:1/0"), "nodes")
        assert result.exit_code == 2
        assert "Connection refused" in result.stderr

    def test_a_wrong_setting(self, server: Server) -> None:
        result = run_with(make_app(server.url, minsched_node_tl=3), "nodes")
        assert result.exit_code == 2
        assert "Did you mean minsched_node_ttl?" in result.stderr


#: celery's own program, also where the package's entry points were not installed.
CELERY = (
    "from celery.bin.celery import celery, main; from celery_minsched.cli import minsched;"
    "celery.add_command(minsched); main()"
)


@contextmanager
def celery_program(server: Server, *args: str) -> Iterator[subprocess.Popen[str]]:
    environment = app_environment(server.url)
    with subprocess.Popen(
        [sys.executable, "-c", CELERY, "-A", "tests.support.app", "minsched", *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class TestProgram:
    def test_the_entry_point_names_the_group(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["entry-points"]["celery.commands"] == {
            "minsched": "celery_minsched.cli:minsched"
        }
        assert symbol_by_name("celery_minsched.cli:minsched") is minsched
        assert minsched.name == "minsched"

    def test_events_and_top_go_on_until_ctrl_c_which_ends_them_quietly(
        self, server: Server, desk: Desk
    ) -> None:
        desk.node("n1", 1)
        with (
            celery_program(server, "events", "--follow", "--json") as events,
            celery_program(server, "top", "--json", "--interval", "0.1") as top,
        ):
            assert events.stdout
            assert top.stdout
            assert json.loads(events.stdout.readline())["kind"] == "node_joined"
            desk.service.drain_node("n1")
            assert json.loads(events.stdout.readline())["kind"] == "node_drained"
            event = {"kind": "of the far future"}  # the next event begins the stream anew
            desk.service.redis.xadd("scheduler:events", event, "1000000000000000-0")
            assert json.loads(events.stdout.readline())["kind"] == "of the far future"
            desk.service.pause_pool("asr")
            assert json.loads(events.stdout.readline())["kind"] == "pool_paused"
            desk.service.pause_pool("asr", False)
            looks = map(json.loads, top.stdout)
            assert any(look["nodes"][0]["state"] == "draining" for look in looks)
            for process in (events, top):
                process.send_signal(signal.SIGINT)
            for process in (events, top):
                assert process.communicate(timeout=60)[1] == ""
                assert process.returncode == 0


class TestRemoteControl:
    def test_a_node_tells_its_state_and_can_be_drained(self, fleet: Fleet) -> None:
        fleet.start_ready("n1", "-P", "threads")
        on_n1 = ("-d", "celery@n1", "--json", "-t", "5")

        def ask(*args: str, command: click.Command = inspect) -> Any:
            result = run_with(fleet.app, *args, *on_n1, command=command)
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout)["celery@n1"]

        fleet.send("hold", "x")
        wait_for(lambda: ask("minsched")["jobs"], "the node to hold its job")
        state = ask("minsched")
        assert (state["node_id"], state["max_jobs"], state["draining"]) == ("n1", 2, False)
        assert state["seconds_since_heard"] < 8

        control_ = run_with(fleet.app, "minsched_drain", *on_n1, command=control)
        assert json.loads(control_.stdout) == [
            {"celery@n1": {"ok": "takes no more jobs in a moment"}}
        ]
        wait_for(lambda: (node := fleet.node("n1")) and node.draining, "the node to drain")
        wait_for(lambda: ask("minsched")["draining"], "the node to know")
        run_with(fleet.app, "minsched_undrain", *on_n1, command=control)
        wait_for(lambda: (node := fleet.node("n1")) and node.takes_jobs, "the node to take jobs")
        wait_for(lambda: "node n1 is not draining any more" in fleet.log("n1"), "the log")
        assert "node n1 is online with 2 slots" in fleet.log("n1")
        assert "node n1 is draining" in fleet.log("n1")
        fleet.app.backend.client.lpush("test:release:x", "go")
        fleet.wait_idle()
        fleet.stop("n1")
        assert "node n1 has left" in fleet.log("n1")

    @pytest.mark.parametrize("name", ["minsched", "minsched_drain", "minsched_undrain"])
    def test_a_worker_that_is_no_node_says_so(self, name: str) -> None:
        answer = getattr(remote, name)(SimpleNamespace(app=object(), hostname="w1"))
        assert "w1 is no node of the scheduler" in answer["error"]


def test_a_decision_is_one_line_at_debug_with_fields_and_no_payload(
    app: Celery, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.node("n1", 1)
    caplog.set_level(logging.DEBUG, "celery_minsched")
    task = app.send_task("t", ("a secret",), {"password": "s3cret"}, minsched={"pool": "asr"})
    [record] = [record for record in caplog.records if record.name.startswith("celery_minsched")]
    assert record.getMessage() == f"task {task.id} is job :1, at node n1 (least_loaded)"
    fields = vars(record)
    assert (fields["task_id"], fields["node_id"], fields["pool"]) == (task.id, "n1", "asr")
    assert "secret" not in str(fields)
    assert "s3cret" not in str(fields)
