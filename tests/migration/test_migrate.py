"""``celery minsched migrate`` converts the original layout to the current layout."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import redis
from celery import Celery

from celery_minsched import (
    CompleteTaskRequest,
    HeartbeatRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
)
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.layout import LAYOUT
from celery_minsched.monitor.queries import Views

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import ROOT, app_environment, make_app, wait_for
from ..support.old_layout import (
    OldLayout,
    OldProgram,
    assert_untouched,
    content,
    fill,
    leave_in_flight,
)
from ..support.server import Server

NOTE = "scheduler:layout"


@pytest.fixture
def app(server: Server) -> Celery:
    return make_app(server.url)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "jobs.jsonl"


def migrate(app: Celery, history: Path) -> dict[str, object]:
    answer = run_with(app, "migrate", "--apply", "--history", str(history), "--json")
    assert answer.exit_code == 0, answer.output
    report: dict[str, object] = json.loads(answer.output)
    return report


def assert_carried_over(client: redis.Redis, old: OldLayout, history: Path) -> None:
    """Check that all data is there, unknown keys are unchanged, and the state is consistent."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert Counter(line["job_id"] for line in lines) == Counter(list(old.jobs))
    assert all(old.jobs[line.pop("job_id")] == line for line in lines)
    for node_id, jobs in old.in_flight.items():
        assert set(client.zrange(f"scheduler:node:jobs:{node_id}", 0, -1)) == jobs
        assert client.hget(f"scheduler:node:runtime:{node_id}", "current_jobs") == str(len(jobs))
    for session_id, record in old.sessions.items():
        assert client.hgetall(f"scheduler:session:{session_id}") == record
    for pair, pools in old.pairs.items():
        assert sorted(client.smembers(f"scheduler:lang:{pair}")) == pools
    for pool, members in old.pools.items():
        assert client.smembers(f"scheduler:pool:{pool}:members") == members
    for key in client.scan_iter("scheduler:job:*:*"):
        assert client.ttl(key) > 0
    assert client.get("scheduler:job:id_seq") == str(len(old.jobs))
    assert client.get(NOTE) == str(LAYOUT)
    assert_untouched(client, old)
    assert Checker(Views(client, MinimalSchedulerService(client).keys)).check() == []


def test_a_dry_run_counts_the_data_and_changes_nothing(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    old = fill(client, nodes=12, sessions=20, jobs=200)
    before = {key: content(client, key) for key in client.scan_iter()}
    answer = run_with(app, "migrate", "--json", "--history", str(history))
    assert answer.exit_code == 1
    report = json.loads(answer.output)
    assert (report["found"], report["layout"], report["applied"]) == (1, LAYOUT, False)
    assert (report["nodes"], report["pools"]) == (12, 2)
    assert (report["sessions"], report["jobs"]) == (20, 200)
    assert report["language_pairs"] == len(old.pairs)
    with_prefix = [key for key in old.unknown if key.startswith("scheduler:")]
    assert sorted(report["unknown"]) == sorted(with_prefix)
    answer = run_with(app, "migrate")
    assert answer.exit_code == 1
    assert "12 nodes, 2 pools, 6 language pairs, 20 sessions, 200 jobs." in answer.output
    assert "Nothing was changed. To migrate, add --apply --history FILE." in answer.output
    assert "    scheduler:leader\n" in answer.output
    assert {key: content(client, key) for key in client.scan_iter()} == before
    assert not history.exists()


def test_migrate_carries_over_all_data(app: Celery, client: redis.Redis, history: Path) -> None:
    old = fill(client, nodes=12, sessions=20, jobs=200)
    report = migrate(app, history)
    assert (report["applied"], report["written"]) == (True, 200)
    assert report["held"] == sum(map(len, old.in_flight.values()))
    assert_carried_over(client, old, history)


def test_a_second_migration_changes_nothing(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    old = fill(client, nodes=3, sessions=5, jobs=80)
    migrate(app, history)
    answer = run_with(app, "migrate")
    assert (answer.exit_code, answer.output) == (
        0,
        f"Redis has layout {LAYOUT}, the layout of this version.\n",
    )
    client.set(NOTE, 1)  # as if the first migration had been interrupted before its end
    assert migrate(app, history)["written"] == 0
    assert_carried_over(client, old, history)


def test_an_incomplete_line_of_the_history_is_written_again(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    old = fill(client, nodes=3, sessions=5, jobs=80)
    history.write_text('{"job_id": "user-1:1", "node')
    migrate(app, history)
    assert_carried_over(client, old, history)


@pytest.mark.parametrize(
    ("text", "error"),
    [("something else\n", "line 1 is not a job"), ("[]\n", "line 1 is not a job")],
)
def test_a_history_file_with_other_content_is_refused(
    app: Celery, client: redis.Redis, history: Path, text: str, error: str
) -> None:
    fill(client, nodes=3, sessions=5, jobs=20)
    history.write_text(text)
    before = sorted(client.scan_iter())
    answer = run_with(app, "migrate", "--apply", "--history", str(history))
    assert answer.exit_code == 2
    assert error in answer.stderr
    assert history.read_text() == text
    assert sorted(client.scan_iter()) == before


def test_migrate_requires_a_history_file(app: Celery, client: redis.Redis) -> None:
    fill(client, nodes=3, sessions=5, jobs=20)
    answer = run_with(app, "migrate", "--apply")
    assert answer.exit_code == 2
    assert "--history FILE" in answer.stderr
    assert not client.exists(NOTE)


def test_a_foreign_key_with_a_name_of_this_layout_is_refused(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    fill(client, nodes=3, sessions=5, jobs=20)
    client.set("scheduler:waiting:room", "occupied")
    answer = run_with(app, "migrate", "--apply", "--history", str(history))
    assert answer.exit_code == 2
    assert "scheduler:waiting:room" in answer.stderr
    assert not client.exists(NOTE)
    assert client.get("scheduler:waiting:room") == "occupied"


def test_migrate_reads_each_form_that_the_specification_permits(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    client.hset("scheduler:lang:zh:en", mapping={"pools": '["asr", 7]'})
    info = {"max_jobs": "many", "cap_json": "?", "load_json": ""}
    client.hset("scheduler:node:info:n1", mapping=info)
    client.hset("scheduler:node:runtime:gone", "current_jobs", 3)
    client.sadd("scheduler:pool:asr:members", "n1", "gone")
    job = {"node_id": "n1", "status": "running", "created_ts": "1.5", "payload_json": "not JSON"}
    client.hset("scheduler:job::7", mapping=job)
    report = migrate(app, history)
    assert (report["held"], report["nodes"]) == (0, 1)  # the job began in 1970 and holds no slot
    assert client.smembers("scheduler:lang:zh:en") == {"asr", "7"}
    assert client.smembers("scheduler:pool:asr:members") == {"n1"}
    assert not client.exists("scheduler:node:runtime:gone")
    assert client.get("scheduler:job:id_seq") == "7"  # a new job gets an unused id
    views = app.minsched.views
    job_view = views.job(":7")
    assert job_view is not None
    assert (job_view.created_ts, job_view.payload_json) == (1500, '"not JSON"')
    assert views.nodes()[0].max_jobs == 1
    assert Checker(views).check() == []


def test_migrate_names_the_running_nodes_of_the_old_version(
    app: Celery, client: redis.Redis, history: Path
) -> None:
    fill(client, nodes=3, sessions=1, jobs=1)
    client.hset("scheduler:node:info:node-2", "last_heartbeat_ts", client.time()[0])
    answer = run_with(app, "migrate")
    assert "These nodes of the old version are alive: node-2. Stop them" in answer.output


def test_migrate_of_an_empty_database_changes_nothing(app: Celery, client: redis.Redis) -> None:
    client.set("scheduler:leader", "x")
    answer = run_with(app, "migrate")
    assert (answer.exit_code, answer.output) == (0, "Redis has no data of the scheduler.\n")
    assert client.keys() == ["scheduler:leader"]


def test_a_later_layout_is_refused(app: Celery, client: redis.Redis, history: Path) -> None:
    client.set(NOTE, LAYOUT + 1)
    answer = run_with(app, "migrate", "--apply", "--history", str(history))
    assert answer.exit_code == 2
    assert "WRONG_LAYOUT" in answer.stderr


class TestInFlight:
    """A job that was in flight ends or loses its slot."""

    @pytest.fixture
    def job(self, app: Celery, client: redis.Redis, history: Path) -> tuple[str, str]:
        """The id of a job in flight, and the id of its node."""
        old = fill(client, nodes=2, sessions=1, jobs=40)
        migrate(app, history)
        [job] = [(job_id, node) for node, jobs in old.in_flight.items() for job_id in jobs]
        return job

    def taken(self, client: redis.Redis, node_id: str) -> str | None:
        return client.hget(f"scheduler:node:runtime:{node_id}", "current_jobs")

    def register(self, service: MinimalSchedulerService, node_id: str) -> None:
        service.register_node(RegisterNodeRequest(node_id=node_id, max_jobs=2, pools_json='["1"]'))

    def test_the_node_of_a_job_in_flight_completes_it(
        self, service: MinimalSchedulerService, client: redis.Redis, job: tuple[str, str]
    ) -> None:
        job_id, node_id = job
        assert self.taken(client, node_id) == "1"
        self.register(service, node_id)
        service.complete_task(
            CompleteTaskRequest(job_id=job_id, node_id=node_id, status="finished")
        )
        assert self.taken(client, node_id) == "0"

    def test_a_job_in_flight_holds_its_slot_while_its_node_restarts(
        self, service: MinimalSchedulerService, client: redis.Redis, job: tuple[str, str]
    ) -> None:
        _, node_id = job
        self.register(service, node_id)
        answer = service.heartbeat(HeartbeatRequest(node_id=node_id, jobs=[]))
        assert (answer.current_jobs, answer.not_yours) == (1, [])

    def test_a_node_of_the_earlier_version_completes_a_job_in_flight(
        self, desk: Desk, client: redis.Redis, job: tuple[str, str]
    ) -> None:
        job_id, node_id = job
        client.hset(f"scheduler:job:{job_id}", "status", "finished")
        client.hincrby(f"scheduler:node:runtime:{node_id}", "current_jobs", -1)
        self.register(desk.service, node_id)
        assert client.zrange(f"scheduler:node:jobs:{node_id}", 0, -1) == [job_id]
        client.zadd(f"scheduler:node:jobs:{node_id}", {job_id: 1})  # the hour has passed
        desk.beat(node_id, jobs=[])
        assert self.taken(client, node_id) == "0"

    def test_a_job_in_flight_without_a_node_is_lost_after_an_hour(
        self, desk: Desk, client: redis.Redis, job: tuple[str, str]
    ) -> None:
        job_id, node_id = job
        client.zadd(f"scheduler:node:jobs:{node_id}", {job_id: 1})  # the hour has passed
        self.register(desk.service, "another")
        client.hset("scheduler:heard", mapping={"since": 1, "last": 10**15})
        wait_for(lambda: desk.beat("another", jobs=[]) and self.taken(client, node_id) == "0")
        assert desk.status(job_id) == "lost"

    def test_a_job_in_flight_of_a_silent_node_holds_its_slot_for_an_hour(
        self, desk: Desk, client: redis.Redis, job: tuple[str, str]
    ) -> None:
        job_id, node_id = job
        self.register(desk.service, "another")
        client.hset("scheduler:heard", mapping={"since": 1, "last": 10**15})
        wait_for(lambda: desk.beat("another", jobs=[]) and desk.views.is_rescue_pending(node_id))
        desk.beat("another", jobs=[])
        assert desk.status(job_id) == "dispatched"
        assert self.taken(client, node_id) == "1"


def test_check_repairs_the_changes_of_a_program_with_the_earlier_layout(
    server: Server, app: Celery, client: redis.Redis, history: Path
) -> None:
    """The scheduler cannot detect such a program, because it knows no layout number."""
    fill(client, nodes=3, sessions=1, jobs=80)
    migrate(app, history)
    program = OldProgram(server, "1", "late")
    program.start()
    wait_for(lambda: len(program.completed) > 20, "the program to complete jobs")
    program.stop()
    leave_in_flight(client, "1", "late")
    answer = run_with(app, "check")
    assert answer.exit_code == 1
    assert "current_jobs" in answer.output
    run_with(app, "check", "--repair")
    assert Checker(app.minsched.views).check() == []


def killed(server: Server, client: redis.Redis, history: Path, after: int) -> bool:
    """Run the command in a process, and kill it after Redis has run ``after`` commands.

    Returns true if the command was killed before its end.
    """
    process = start(server, history)
    wait_for(lambda: client.exists(NOTE) or process.poll() is not None, "the migration to begin")
    began = client.info("stats")["total_commands_processed"]
    polls = 0
    while process.poll() is None:
        polls += 1
        if client.info("stats")["total_commands_processed"] - began - polls >= after:
            process.kill()
            break
    return process.wait() != 0


def start(server: Server, history: Path) -> subprocess.Popen[bytes]:
    command = (
        "-A",
        "tests.support.app",
        "minsched",
        "migrate",
        "--apply",
        "--history",
        str(history),
    )
    environment = app_environment(server.url)
    return subprocess.Popen(
        [sys.executable, "-m", "celery", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("sessions", "jobs", "kills"),
    [(200, 1500, 2), pytest.param(1000, 10_000, 10, marks=pytest.mark.soak)],
)
def test_a_migration_that_is_killed_at_any_point_loses_no_data(
    server: Server, client: redis.Redis, history: Path, sessions: int, jobs: int, kills: int
) -> None:
    old = fill(client, nodes=50, sessions=sessions, jobs=jobs)
    rand = random.Random(jobs)
    for _ in range(kills):  # a complete run sends about ten commands for each job
        assert killed(server, client, history, after=rand.randrange(9 * jobs))
        assert client.get(NOTE) == "1"
    assert start(server, history).wait(60) == 0
    assert_carried_over(client, old, history)
