"""``celery -A app minsched …``: the output of the commands for people and for programs."""

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
from ..support.contents import contents
from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.server import Server

READING_COMMANDS = (
    *("nodes", "pools", "jobs", "waiting", "events", "check", "top --once --interval 0.1"),
    f"why {TASK.format(0)}",
)


class TestReading:
    @pytest.mark.parametrize("command", READING_COMMANDS)
    def test_a_command_fits_80_columns_and_has_no_colour_in_a_pipe(
        self, busy: Desk, run: Run, command: str
    ) -> None:
        result = run(*command.split())
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        if command != "events":  # events are one line each for grep
            assert max(map(len, result.stdout.splitlines())) <= 80
        assert "\x1b" not in result.stdout

    @pytest.mark.parametrize("command", READING_COMMANDS)
    def test_a_reading_command_changes_nothing(
        self, busy: Desk, server: Server, run: Run, command: str
    ) -> None:
        def state() -> dict[bytes, tuple[object, bool]]:
            with redis.Redis(port=server.port) as raw:
                return {key: (value, raw.ttl(key) < 0) for key, value in contents(raw).items()}

        before = state()
        run(*command.split(), "--json")
        assert state() == before

    def test_the_commands_report_an_empty_fleet(self, run: Run) -> None:
        names = ("nodes", "pools", "jobs", "waiting", "events")
        assert {name: run(name).stdout for name in names} == {
            "nodes": "No node is registered.\n",
            "pools": "No pool has a node.\n",
            "jobs": "There is no such job.\n",
            "waiting": "No job waits.\n",
            "events": "",
        }
        assert "0 nodes, 0/0 slots, 0 waiting" in run("top", "--once", "--interval", "0.1").stdout
        assert json.loads(run("nodes", "--json").stdout) == []

    def test_nodes_shows_full_and_dead_nodes(self, busy: Desk, run: Run) -> None:
        busy.node("gone", 2)
        silence(busy, "gone", 90_000)
        busy.service.declare_dead("gone")
        rows = {line.split()[0]: line for line in run("nodes").stdout.splitlines()}
        assert re.search(r"full +2/2 +12% +97% +40% ", rows["gpu-1"])
        assert re.search(r"free +0/1 ", rows["cpu-1"])
        assert re.search(r"dead +2/2 .* 1 m 3\d s ", rows["gone"])
        nodes = json.loads(run("nodes", "--json").stdout)
        assert {node["node_id"]: node["state"] for node in nodes}["gone"] == "dead"
        assert [NodeView.model_validate(node) for node in nodes] == busy.views.nodes()

    def test_pools_shows_the_load_for_scaling(self, busy: Desk, run: Run) -> None:
        assert re.search(r"^asr +open +2/2 +3/3 +4 +2\.33", run("pools").stdout, re.MULTILINE)
        pools = json.loads(run("pools", "--json").stdout)
        assert [PoolView.model_validate(pool) for pool in pools] == busy.views.pools()
        assert pools[0]["load"] == pytest.approx(7 / 3)

    def test_jobs_can_be_filtered(self, busy: Desk, run: Run) -> None:
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
        output = run("jobs", "--limit", "3").stdout
        assert output.count(TASK[:-2]) == 3
        assert output.endswith("… and more. See --limit and --offset.\n")

    def test_jobs_shows_a_line_of_several_pages(self, desk: Desk, run: Run) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        for n in range(450):
            desk.park(task_id=f"t{n}")
        jobs = json.loads(run("jobs", "--json", "--status", "waiting", "--limit", "1000").stdout)
        assert [job["task_id"] for job in jobs] == [f"t{n}" for n in range(450)]

    def test_waiting_shows_busy_and_impossible_lines(self, busy: Desk, run: Run) -> None:
        text = run("waiting").stdout
        assert re.search(r"^asr +- +- +3 +\d\.\d s +busy", text, re.MULTILINE)
        assert re.search(r"^asr +nobody-has-this +- +1 +\d\.\d s +impossible", text, re.MULTILINE)
        lines = json.loads(run("waiting", "--json").stdout)
        assert sorted(LineView.model_validate(line).waiting for line in lines) == [1, 3]

    @pytest.mark.parametrize(
        ("task", "verdict", "code"),
        [("0", "placed", 0), ("3", "waiting", 3), ("7", "delayed", 3), ("6", "impossible", 4)],
    )
    def test_the_exit_code_of_why_tells_the_verdict(
        self, busy: Desk, run: Run, task: str, verdict: str, code: int
    ) -> None:
        result = run("why", TASK.format(task))
        assert (result.exit_code, verdict in result.stdout) == (code, True)
        result = run("why", TASK.format(task), "--json")
        assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (code, verdict)

    def test_why_reports_an_unknown_task(self, run: Run) -> None:
        result = run("why", "nobody")
        assert result.exit_code == 1
        assert result.stdout.startswith("The scheduler does not know task 'nobody'")

    def test_why_lists_the_nodes_and_their_obstacles(self, busy: Desk, run: Run) -> None:
        rows = run("why", TASK.format(3)).stdout.splitlines()
        assert any(re.fullmatch(r"gpu-1 +2/2 +12% +97% +40% +full *", row) for row in rows)
        assert any(re.fullmatch(r"cpu-1 +0/1 .* not in asr *", row) for row in rows)

    def test_events_are_shown_oldest_first(self, busy: Desk, run: Run) -> None:
        lines = run("events", "--limit", "2").stdout.splitlines()
        assert len(lines) == 2
        assert re.match(rf"[\d-]+ [\d:]+  job_waited     job=u3:\d+ task={TASK[:-2]}5 ", lines[0])
        events = json.loads(run("events", "--json").stdout)
        assert [Event.model_validate(event) for event in events] == busy.views.events()

    def test_top_shows_the_rates_between_two_snapshots(self, busy: Desk, run: Run) -> None:
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                busy.complete(busy.dispatch(pool="mt"))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            text = run("top", "--once", "--interval", "0.3").stdout
            snapshot = json.loads(run("top", "--once", "--interval", "0.3", "--json").stdout)
        finally:
            stop.set()
            thread.join()
        assert re.search(r"^gpu-1 +full +■■ +2/2 +12% ", text, re.MULTILINE)
        assert re.search(r"^jobs/s +\d+\.\d placed, ", text, re.MULTILINE)
        pace = snapshot["pace"]
        assert min(pace["placed"], pace["ended"], pace["scripts"], pace["script_ms"]) > 0
        assert snapshot["server"]["round_trip_ms"] > 0


class TestExitCodes:
    def test_the_help_lists_the_exit_codes_of_a_command(self, run: Run) -> None:
        text = run("rescue", "--help").stdout
        codes = re.findall(r"^  (\d)  (\S.*)", text.partition("Exit codes:\n")[2], re.MULTILINE)
        assert [code for code, _ in codes] == ["0", "1", "2"]
        assert dict(codes)["2"] == EXIT_CODES[ExitCode.FAILED]

    def test_each_verdict_of_why_has_a_documented_exit_code(self) -> None:
        assert set(VERDICT_EXIT_CODES.values()) == why.exit_codes.keys()


class TestErrors:
    def test_an_application_without_a_scheduler_is_refused(self) -> None:
        result = run_with(Celery("bare", set_as_current=False), "nodes")
        assert result.exit_code == 2
        assert "the application 'bare' has no scheduler. Write MinSched(app)" in result.stderr

    def test_an_unreachable_redis_is_reported(self, no_pauses: None) -> None:
        result = run_with(make_app("redis://127.0.0.1:1/0"), "nodes")
        assert result.exit_code == 2
        assert "Connection refused" in result.stderr

    def test_an_unknown_setting_is_reported(self, server: Server) -> None:
        result = run_with(make_app(server.url, minsched_node_tl=3), "nodes")
        assert result.exit_code == 2
        assert "Did you mean minsched_node_ttl?" in result.stderr


def test_a_dispatch_logs_one_debug_line_without_the_payload(
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
