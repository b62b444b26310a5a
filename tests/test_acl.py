"""All works under deploy/redis-acl.conf, each role by a user of its own, and none may do more."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chord, group
from celery.bin.base import CLIContext
from celery.exceptions import TaskRevokedError
from click.testing import CliRunner
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError
from redis.retry import Retry

from celery_minsched import (
    DispatchRequest,
    MinimalSchedulerService,
    NodeLostError,
    RegisterNodeRequest,
)
from celery_minsched.cli import minsched
from celery_minsched.snapshot import look
from celery_minsched.views import Views
from celery_minsched.why import why

from .fleet import FAST, ROOT, Fleet, make_app, wait_for
from .old_layout import fill
from .server import Server, free_port, program
from .test_cli import run_with
from .work import start_work

CONF = ROOT / "deploy" / "redis-acl.conf"
ROLES = ("admin", "producer", "node", "viewer")


def with_passwords(text: str) -> str:
    """The file as an operator completes it; here a role's password is its name."""
    for role in ROLES:
        digest = hashlib.sha256(role.encode()).hexdigest()
        text = text.replace(f"#{role.upper()}_SHA256", f"#{digest}")
    return text


class Guarded(Server):
    """A server with the file. Nodes are told its ``url``; tests look at it as its administrator."""

    def __init__(self, conf: Path) -> None:
        super().__init__("--include", str(conf))

    def url_of(self, role: str) -> str:
        return f"redis://{role}:{role}@127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        return self.url_of("node")

    def client(self, **options: object) -> redis.Redis:
        return super().client(**{"username": "admin", "password": "admin", **options})

    def app_of(self, role: str, **conf: object) -> Celery:
        return make_app(self.url_of(role), **conf)

    def service_of(self, role: str) -> MinimalSchedulerService:
        return MinimalSchedulerService(self.client(username=role, password=role))

    def denials(self) -> list[dict[str, Any]]:
        """What was refused, but for a client that tells its own name (Redis 7.2)."""
        with self.client() as admin:
            found = [d for d in admin.acl_log() if d["object"] != "client|setinfo"]
            admin.acl_log_reset()
        return found


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("acl") / "redis-acl.conf"
    path.write_text(with_passwords(CONF.read_text()))
    return path


@pytest.fixture(scope="module")
def guarded(conf: Path) -> Iterator[Guarded]:
    server = Guarded(conf)
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "node", "~test:*")  # where tests/app.py writes
    yield server
    server.close()


@pytest.fixture(scope="module")
def nodes(guarded: Guarded) -> Iterator[Fleet]:
    """Two nodes of the role node; their tasks are sent by a producer."""
    fleet = Fleet(guarded, **FAST)
    fleet.app = guarded.app_of("producer", minsched_node_ttl=2.0, minsched_heartbeat_interval=0.2)
    viewer = Views(guarded.service_of("viewer").redis, fleet.plugin.scheduler.keys)
    for node_id in ("n1", "n2"):
        fleet.start(node_id, "-P", "threads", "-E", slots=1)
    wait_for(lambda: sum(node.online for node in viewer.nodes()) == 2, "nodes")
    yield fleet
    fleet.close()
    assert guarded.denials() == []
    with guarded.client() as admin:
        assert Views(admin, fleet.plugin.scheduler.keys).check() == []


@pytest.fixture
def fleet(nodes: Fleet, guarded: Guarded) -> Iterator[Fleet]:
    """The nodes; what is refused while a test goes on fails it."""
    yield nodes
    assert guarded.denials() == []


def signature(fleet: Fleet, task: str, *args: object) -> Any:
    return fleet.app.signature(f"tests.app.{task}", args=args).set(minsched={"pool": "asr"})


class TestTheWholeFlow:
    """Of processes: nodes, a producer, a viewer."""

    def test_tasks_run_wait_come_due_retry_and_fail(self, fleet: Fleet) -> None:
        many = [fleet.send("where_am_i", 0.1, minsched={"session_id": "u1"}) for _ in range(6)]
        later = fleet.send("where_am_i", countdown=0.5)
        retried, failed = fleet.send("retries", 0.2), fleet.send("fails")
        assert {result.get(timeout=20)["hostname"] for result in many} <= {"celery@n1", "celery@n2"}
        assert later.get(timeout=20)
        assert retried.get(timeout=20)["demand"]["pool"] == "asr"
        with pytest.raises(ValueError, match="no luck"):
            failed.get(timeout=20)
        later.forget()

    def test_canvas_and_many_at_once(self, fleet: Fleet) -> None:
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

    def test_workers_answer_and_their_events_are_heard(
        self, fleet: Fleet, guarded: Guarded
    ) -> None:
        answers = fleet.app.control.inspect(timeout=5, limit=2).ping()
        assert set(answers) == {"celery@n1", "celery@n2"}
        app = guarded.app_of("node")
        with app.connection_for_read() as connection:

            def hear(event: dict[str, Any]) -> None:
                assert event["hostname"] in answers
                receiver.should_stop = True

            receiver = app.events.Receiver(connection, handlers={"*": hear})
            receiver.capture(timeout=10, wakeup=False)
        assert receiver.should_stop

    def test_a_viewer_sees_all_but_messages(self, fleet: Fleet, guarded: Guarded) -> None:
        work = start_work(fleet)
        [job] = work.jobs
        app = guarded.app_of("viewer", minsched_node_ttl=2.0, minsched_heartbeat_interval=0.2)
        views = app.minsched.views
        assert [node.node_id for node in look(views).nodes] == ["n1", "n2"]
        assert why(views, job.id).verdict == "placed"
        assert views.jobs()
        assert views.events(after="0", block_ms=1)
        context = CLIContext(app=app, no_color=False, workdir=None)
        for command in (["nodes"], ["pools"], ["jobs"], ["waiting"], ["events"], ["why", job.id]):
            answer = CliRunner().invoke(minsched, [*command, "--json"], obj=context)
            assert answer.exit_code == 0, answer.output
            json.loads(answer.output)
        assert CliRunner().invoke(minsched, ["check"], obj=context).output == "All is sound.\n"
        refused = CliRunner().invoke(minsched, ["drain", "n1"], obj=context)
        assert refused.exit_code == 2
        assert "permission" in refused.stderr
        assert {denial["username"] for denial in guarded.denials()} == {"viewer"}
        work.let_end()

    def test_what_a_dead_node_had_is_rescued(self, fleet: Fleet, guarded: Guarded) -> None:
        with guarded.client() as admin:
            wait_for(lambda: not admin.exists("scheduler:node:jobs:n2"), "n2 to be idle")
            lost = fleet.send("where_am_i", 30, minsched={"preferred_node": "n2"})
            wait_for(lambda: admin.exists("minsched.acked.n2"), "the task to be acknowledged")
        fleet.destroy("n2")
        with pytest.raises(NodeLostError):
            lost.get(timeout=20)
        assert fleet.stop("n1") == 0


#: What a role may not do, on keys that are there; the last of a call says how it is called.
Call = Callable[[redis.Redis], object]
BY_NO_ONE: dict[str, Call] = {
    "delete all": lambda r: r.flushall(),
    "read the configuration": lambda r: r.config_get("requirepass"),
    "change the configuration": lambda r: r.config_set("maxmemory", 1),
    "change the roles": lambda r: r.execute_command("ACL", "SETUSER", "viewer", "+@all"),
    "list all keys": lambda r: r.keys("*"),
    "watch what others send": lambda r: r.execute_command("MONITOR"),
    "forget the scripts": lambda r: r.script_flush(),
    "stop the server": lambda r: r.execute_command("SHUTDOWN", "NOSAVE"),
    "copy the data": lambda r: r.execute_command("REPLICAOF", "127.0.0.1", "1"),
    "read another key": lambda r: r.get("other"),
    "write another key": lambda r: r.set("other", "mine"),
    "delete another key": lambda r: r.delete("other"),
    "write another key by a script": lambda r: r.eval("redis.call('SET', 'other', 'mine')", 0),
    "send to a queue of Celery's": lambda r: r.lpush("celery", "{}"),
    "send on another channel": lambda r: r.publish("other", "{}"),
}
NOT_BY_A_PRODUCER: dict[str, Call] = {
    "rescue a node": lambda r: MinimalSchedulerService(r).claim_rescue(),
    "take jobs from a queue as a node does": lambda r: r.blmove(
        "minsched.node.n1", "minsched.taken.n1", 1
    ),
    "read what a node has unacknowledged": lambda r: r.hgetall("minsched.unacked.n1"),
    "read a queue": lambda r: r.lrange("minsched.node.n1", 0, -1),
    "hear what workers are told": lambda r: r.execute_command("PSUBSCRIBE", "/0.*"),
}
NOT_BY_A_VIEWER: dict[str, Call] = {
    "send a job": lambda r: MinimalSchedulerService(r).dispatch_task(DispatchRequest(pool="asr")),
    "drain a node": lambda r: MinimalSchedulerService(r).drain_node("n1"),
    "write a record": lambda r: r.hset("scheduler:node:info:n1", "max_jobs", 1),
    "read a message": lambda r: r.lrange("minsched.node.n1", 0, -1),
    "take a message": lambda r: r.rpop("minsched.node.n1"),
    "read a result": lambda r: r.get("celery-task-meta-1"),
    "tell workers what to do": lambda r: r.publish("/0.celery.pidbox", "{}"),
    "run any script": lambda r: r.eval("return 1", 0),
}
REFUSED = [
    *((role, what, call) for role in ROLES[1:] for what, call in BY_NO_ONE.items()),
    *(("producer", what, call) for what, call in NOT_BY_A_PRODUCER.items()),
    *(("viewer", what, call) for what, call in NOT_BY_A_VIEWER.items()),
]


@pytest.fixture(scope="module")
def asset(conf: Path) -> Iterator[Guarded]:
    """A server with a node, and with a key that is no role's."""
    server = Guarded(conf)
    node = RegisterNodeRequest(node_id="n1", max_jobs=2, pools_json='["asr"]')
    with server.client() as admin:
        MinimalSchedulerService(admin).register_node(node)
        admin.set("other", "somebody's")
    yield server
    server.close()


def everything(server: Guarded) -> dict[bytes, object]:
    with redis.Redis(port=server.port, username="admin", password="admin") as admin:
        return {key: admin.dump(key) for key in sorted(admin.keys("*"))}


class TestRefused:
    @pytest.mark.parametrize(
        ("role", "call"), [pytest.param(r, c, id=f"{r}: {w}") for r, w, c in REFUSED]
    )
    def test_a_role_may_not(self, asset: Guarded, role: str, call: Call) -> None:
        before = everything(asset)
        with asset.client(username=role, password=role) as client, pytest.raises(ResponseError):
            call(client)
        assert {denial["username"] for denial in asset.denials()} == {role}
        assert everything(asset) == before

    def test_nobody_may_do_anything_without_a_password(self, asset: Guarded) -> None:
        once = Retry(NoBackoff(), 0)
        with pytest.raises(AuthenticationError):
            redis.Redis(port=asset.port, retry=once).get("scheduler:turn")
        with pytest.raises(AuthenticationError):
            asset.client(username="producer", password="node", retry=once).ping()
        asset.denials()


def test_a_viewer_has_no_command_that_writes(asset: Guarded) -> None:
    with asset.client() as admin:
        granted = admin.acl_getuser("viewer")["commands"]
        known = admin.command()
    commands = [name[1:] for name in granted if name.startswith("+")]
    assert {"hmget", "scan", "xread"} <= set(commands)
    assert not [name for name in commands if "write" in known[name]["flags"]]


def test_the_server_does_not_start_with_a_password_left_out() -> None:
    command = [program(), "--port", str(free_port()), "--include", str(CONF)]
    server = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert server.returncode != 0


def test_moving_in_and_out_is_done_by_the_administrator_and_by_nobody_else(
    conf: Path, tmp_path: Path
) -> None:
    server = Guarded(conf)
    with server.client() as admin:
        fill(admin, nodes=3, sessions=5, jobs=39)
        admin.delete("celery")
        plain = Celery(broker=server.url_of("admin"), set_as_current=False)
        plain.send_task("any", ["x"])
        for command, said in (
            (["migrate", "--apply", "--history", str(tmp_path / "jobs.jsonl")], "39 jobs"),
            (["adopt", "celery", "--pool", "1"], "1 message of queue celery adopted"),
            (["release"], "1 message returned to queue celery"),
        ):
            before = everything(server)
            for role in ROLES[1:]:
                refused = run_with(server.app_of(role), *command)
                assert refused.exit_code == 2, (role, command)
                assert "permission" in refused.stderr
            assert everything(server) == before
            assert server.denials()
            answer = run_with(server.app_of("admin"), *command)
            assert answer.exit_code == 0, answer.output
            assert said in answer.output
            assert server.denials() == []
    server.close()
