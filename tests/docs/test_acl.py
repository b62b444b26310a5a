"""Each role of deploy/redis-acl.conf can do its work, and has no more rights than it needs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord, group
from celery.bin.control import inspect
from celery.exceptions import TaskRevokedError
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from celery_minsched import NodeLostError
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.explain import why
from celery_minsched.monitor.queries import Views
from celery_minsched.monitor.snapshot import take_snapshot

from ..support.acl import CONF, ROLES, Guarded, complete_file
from ..support.commands import run_with
from ..support.fleet import FAST, Fleet, as_conf, wait_for
from ..support.flowers import FlowerProcess
from ..support.old_layout import fill
from ..support.server import free_port, program
from ..support.work import start_work


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete_file(tmp_path_factory.mktemp("acl") / "redis-acl.conf")


@pytest.fixture(scope="module")
def guarded(conf: Path) -> Iterator[Guarded]:
    server = Guarded(conf)
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "node", "~test:*")  # for support/app.py
    yield server
    server.close()


@pytest.fixture
def spare(conf: Path) -> Iterator[Guarded]:
    """A server without nodes."""
    server = Guarded(conf)
    yield server
    server.close()


@pytest.fixture(scope="module")
def flower(guarded: Guarded) -> Iterator[FlowerProcess]:
    """Flower with the rights of an operator."""
    flower = FlowerProcess(guarded.url_of("operator"), FLOWER_UNAUTHENTICATED_API="true")
    yield flower
    flower.close()


@pytest.fixture(scope="module")
def nodes(guarded: Guarded, flower: FlowerProcess) -> Iterator[Fleet]:
    """Two nodes with the role node. A producer sends their tasks."""
    fleet = Fleet(guarded, **FAST)
    fleet.app = guarded.app_of("producer", **as_conf(**FAST))
    viewer = Views(guarded.service_of("viewer").redis, fleet.plugin.scheduler.keys)
    for node_id, capability in (("n1", "one"), ("n2", "two")):
        fleet.start(node_id, "-P", "threads", "-E", "--capability", capability, slots=1)
    wait_for(lambda: sum(node.online for node in viewer.nodes()) == 2, "nodes")
    yield fleet
    fleet.close()
    assert guarded.denials() == []
    with guarded.client() as admin:
        assert Checker(Views(admin, fleet.plugin.scheduler.keys)).check() == []


@pytest.fixture
def fleet(nodes: Fleet, guarded: Guarded) -> Iterator[Fleet]:
    """The nodes. A test fails if Redis denies a command during it."""
    yield nodes
    assert guarded.denials() == []


def signature(fleet: Fleet, task: str, *args: object) -> Any:
    return fleet.app.signature(f"tests.support.app.{task}", args=args).set(minsched={"pool": "asr"})


class TestTheWholeFlow:
    """Nodes, a producer, a viewer and an operator work together."""

    def test_tasks_run_wait_are_delayed_are_retried_and_fail(self, fleet: Fleet) -> None:
        many = [fleet.send("where_am_i", 0.1, minsched={"session_id": "u1"}) for _ in range(6)]
        later = fleet.send("where_am_i", countdown=0.5)
        # Celery (5.7) stores RETRY after it has sent the retry. With one slot the retry runs later,
        # so RETRY does not replace its result.
        retried = fleet.send("retries", 0.2, minsched={"capabilities": ["one"]})
        failed = fleet.send("fails")
        assert {result.get(timeout=20)["hostname"] for result in many} <= {"celery@n1", "celery@n2"}
        assert later.get(timeout=20)
        assert retried.get(timeout=20)["demand"]["pool"] == "asr"
        with pytest.raises(ValueError, match="no luck"):
            failed.get(timeout=20)
        later.forget()

    def test_canvas_and_dispatch_many_work(self, fleet: Fleet) -> None:
        sums = [signature(fleet, "add", n, n) for n in range(3)]
        assert chord(sums)(signature(fleet, "add")).get(timeout=20) == 6
        results = group(sums).apply_async()
        results.save()
        assert results.get(timeout=20) == [0, 2, 4]
        many = fleet.plugin.dispatch_many(signature(fleet, "late") for _ in range(8))
        assert {result.get(timeout=20) for result in many} == {"late"}

    def test_a_waiting_task_is_revoked_and_an_expired_one_dropped(self, fleet: Fleet) -> None:
        work = start_work(fleet, 2)
        expired, revoked = fleet.send("where_am_i", expires=0.2), fleet.send("where_am_i")
        wait_for(lambda: fleet.job(revoked.id).status == "waiting")  # type: ignore[union-attr]
        revoked.revoke()
        for result in (revoked, expired):
            with pytest.raises(TaskRevokedError):
                result.get(timeout=20)
        work.let_end()

    @pytest.mark.parametrize("role", ["producer", "node", "operator"])
    def test_workers_answer_to_remote_control(
        self, fleet: Fleet, guarded: Guarded, role: str
    ) -> None:
        app = guarded.app_of(role)

        def all_answer() -> bool:
            with guarded.client() as admin:  # kombu deletes expired bindings while it waits
                admin.zadd("_kombu.binding_deadlines", {"celery.pidbox": 1, "celeryev": 1})
                answer = run_with(app, "--timeout", "0.5", "ping", command=inspect)
                is_deleted = admin.zscore("_kombu.binding_deadlines", "celeryev") != 1
            assert guarded.denials() == []
            return answer.output.count("pong") == 2 and is_deleted

        wait_for(all_answer, "two workers to answer")
        app.close()

    def test_an_operator_receives_events_of_workers(self, fleet: Fleet, guarded: Guarded) -> None:
        app = guarded.app_of("operator")
        with app.connection_for_read() as connection:

            def on_event(event: dict[str, Any]) -> None:
                assert event["hostname"] in ("celery@n1", "celery@n2")
                receiver.should_stop = True

            receiver = app.events.Receiver(connection, handlers={"*": on_event})
            receiver.capture(timeout=10, wakeup=False)
        assert receiver.should_stop
        app.close()

    def test_flower_runs_as_an_operator(self, fleet: Fleet, flower: FlowerProcess) -> None:
        flower.wait_ready()
        task = fleet.send("where_am_i")
        assert task.get(timeout=20)
        wait_for(lambda: task.id in flower.get("/api/tasks")[1], "Flower to show the task")
        wait_for(lambda: flower.get("/worker/celery@n1")[0] == 200, "Flower to show the worker")
        for page in (
            *(f"/minsched/data/{page}" for page in ("nodes", "node?of=n1", "pools", "waiting")),
            *("/minsched/data/events", f"/minsched/data/why?of={task.id}", "/minsched/nodes"),
            *("/workers", "/tasks", f"/task/{task.id}", "/broker"),
            *("/api/workers?refresh=1", "/api/queues/length"),
        ):
            status, text = flower.get(page)
            assert status == 200, (page, text)
        assert "minsched_up 1.0" in flower.get("/metrics")[1]
        for action in ("drain?of=n1", "undrain?of=n1", "pause?of=asr", "resume?of=asr"):
            assert flower.post(f"/minsched/do/{action}")[0] == 200, action

    def test_a_viewer_sees_everything_except_messages(self, fleet: Fleet, guarded: Guarded) -> None:
        work = start_work(fleet, task="works_late")  # its message stays with the node
        [job] = work.jobs
        with guarded.client() as admin:
            [taken] = admin.keys("minsched.unacked.*")
        app = guarded.app_of("viewer", **as_conf(**FAST))
        views = app.minsched.views
        assert [node.node_id for node in take_snapshot(views).nodes] == ["n1", "n2"]
        assert why(views, job.id).verdict == "placed"
        assert views.jobs()
        assert views.events(after="0", block_ms=1)
        assert run_with(app, "check").output == "No violation found.\n"
        assert guarded.denials() == []
        with pytest.raises(NoPermissionError):
            views.redis.hgetall(taken)
        assert guarded.denials()
        work.let_end()
        app.close()

    def test_the_jobs_of_a_dead_node_are_rescued(self, fleet: Fleet, guarded: Guarded) -> None:
        with guarded.client() as admin:
            jobs_of_n2 = partial(admin.zrange, "scheduler:node:jobs:n2", 0, -1)
            wait_for(
                lambda: not jobs_of_n2(),
                lambda: (
                    f"n2 to be idle: {[admin.hgetall(f'scheduler:job:{j}') for j in jobs_of_n2()]}"
                ),
            )
            lost = fleet.send("where_am_i", 30, minsched={"preferred_node": "n2"})
            wait_for(lambda: admin.exists("minsched.acked.n2"), "the task to be acknowledged")
        fleet.destroy("n2")
        app = guarded.app_of("operator", **as_conf(**FAST))
        wait_for(lambda: run_with(app, "rescue", "n2").exit_code == 0, "n2 to be rescued")
        app.close()
        with pytest.raises(NodeLostError):
            lost.get(timeout=20)
        assert fleet.stop("n1") == 0


def test_the_server_does_not_start_without_passwords() -> None:
    command = [program(), "--port", str(free_port()), "--include", str(CONF)]
    server = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert server.returncode != 0


def test_a_client_without_a_password_has_no_rights(guarded: Guarded) -> None:
    once = Retry(NoBackoff(), 0)
    with pytest.raises(AuthenticationError):
        redis.Redis(port=guarded.port, retry=once).get("scheduler:turn")
    with pytest.raises(AuthenticationError):
        guarded.client(username="producer", password="node", retry=once).ping()
    guarded.denials()


def test_a_viewer_has_no_command_that_writes(guarded: Guarded) -> None:
    with guarded.client() as admin:
        granted = admin.acl_getuser("viewer")["commands"]
        flags = {name: command["flags"] for name, command in admin.command().items()}
    commands = [name[1:] for name in granted if name.startswith("+")]
    assert {"hmget", "scan", "xread"} <= set(commands)
    assert not [name for name in commands if "write" in flags[name]]


def test_only_the_administrator_can_migrate_adopt_and_release(
    spare: Guarded, tmp_path: Path
) -> None:
    with spare.client() as admin:
        fill(admin, nodes=3, sessions=5, jobs=39)
        admin.delete("celery")
        plain = Celery(broker=spare.url_of("admin"), set_as_current=False)
        plain.send_task("any", ["x"])
        for command, text in (
            (["migrate", "--apply", "--history", str(tmp_path / "jobs.jsonl")], "39 jobs"),
            (["adopt", "celery", "--pool", "1"], "Adopted 1 message of queue celery"),
            (["release"], "Returned 1 message to queue celery"),
        ):
            before = spare.contents()
            for role in ROLES[1:]:
                refused = run_with(spare.app_of(role), *command)
                assert refused.exit_code == 2, (role, command)
                assert spare.denials(), (role, command)
            assert spare.contents() == before
            answer = run_with(spare.app_of("admin"), *command)
            assert answer.exit_code == 0, answer.output
            assert text in answer.output
            assert spare.denials() == []


def test_a_node_with_the_rights_of_a_producer_ends_and_takes_no_job(spare: Guarded) -> None:
    fleet = Fleet(spare, broker=spare.url_of("producer"), **FAST)
    fleet.start("mine", "-P", "threads")
    assert fleet.processes["mine"].wait(60) == 1
    assert "permission" in fleet.log("mine")
    with spare.client() as admin:
        assert not admin.exists("scheduler:pool:asr:free")
    fleet.close()
