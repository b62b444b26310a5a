"""``celery -A app minsched …``: each command says what it promises, to people and to scripts."""

from __future__ import annotations

import json
import logging
import re
import threading

import pytest
import redis
from celery import Celery

from celery_minsched.cli.command import EXIT_CODES, ExitCode
from celery_minsched.cli.why import VERDICT_EXIT_CODES, why
from celery_minsched.monitor.models import Event, JobView, LineView, NodeView, PoolView

from ..support.commands import TASK, Run, run_with
from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.server import Server

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
        assert result.stdout.startswith("The scheduler does not know task 'nobody'")

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
