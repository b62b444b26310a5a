"""If a rescuer dies, another one continues. If no node is alive, the next node to start rescues."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery
from redis.connection import AbstractConnection

from celery_minsched import (
    HeartbeatRequest,
    MinimalSchedulerService,
    NodeLostError,
    RegisterNodeRequest,
    Settings,
)
from celery_minsched.consistency.checker import Checker
from node_agent.lost_jobs import report_next
from node_agent.rescuer import Rescuer, rescue

from ..support.desk import Desk
from ..support.fixtures import fast_fleet
from ..support.fleet import FAST, Fleet, as_conf, make_app, wait_for
from ..support.server import Server, milliseconds


class Died(BaseException):
    """Simulates kill -9 of a rescuer."""


class Deadly:
    """Lets this thread send ``left`` commands to Redis, and raises ``Died`` at the next command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        send = AbstractConnection.send_packed_command
        thread = threading.get_ident()

        def send_or_die(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if self.left is not None and threading.get_ident() == thread:
                if self.left <= 0:
                    raise Died
                self.left -= 1
            return send(connection, *args, **kwargs)

        monkeypatch.setattr(AbstractConnection, "send_packed_command", send_or_die)

    @contextmanager
    def after(self, commands: int) -> Iterator[None]:
        self.left = commands
        try:
            yield
        finally:
            self.left = None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


fleet = fast_fleet


def rescuer(server: Server) -> Celery:
    """An application with the tasks of the lost messages."""
    app = make_app(server.url, **as_conf(**FAST))

    @app.task(name="tests.support.app.hold", shared=False)
    def hold(name: str) -> None:
        pass

    @app.task(
        name="tests.support.app.hold_and_retry",
        shared=False,
        retry_on_worker_lost=True,
        default_retry_delay=0,
    )
    def hold_and_retry(name: str) -> None:
        pass

    return app


def beat(app: Celery) -> bool:
    """Send a heartbeat of the node "other". Returns true if a rescue is due."""
    service = app.minsched.scheduler
    return bool(service.heartbeat(HeartbeatRequest(node_id="other", rescues=True)).rescue_due)


def rescue_and_tell(app: Celery) -> None:
    rescue(app.minsched)
    while report_next(app.minsched):
        pass


class DeadNode:
    """The state in Redis that a killed node leaves: jobs of each kind and messages in its queue."""

    def __init__(self, fleet: Fleet, server: Server) -> None:
        self.fleet = fleet
        self.client = server.client()
        self._raw = redis.Redis(port=server.port)
        fleet.start_ready("dead", "-P", "threads", slots=4)
        self.early = fleet.send("hold", "early")
        self.retried = fleet.send("hold_and_retry", "retried")
        self.late = [fleet.send("hold_late", "late")]
        began = [f"test:began:{name}" for name in ("early", "retried", "late")]
        wait_for(lambda: self.client.exists(*began) == 3)
        fleet.deafen("dead")
        self.late += [fleet.send("hold_late", f"queued{n}") for n in range(2)]
        fleet.destroy("dead")
        app = rescuer(server)
        app.minsched.scheduler.register_node(
            RegisterNodeRequest(node_id="other", max_jobs=1, pools_json='["other"]')
        )
        wait_for(lambda: beat(app))
        self._state = {key: self._raw.dump(key) for key in self._raw.keys("*")}
        self._jobs = {fleet.job(result.id).job_id for result in self.late}  # type: ignore[union-attr]

    def restore(self) -> None:
        self._raw.flushall()
        for key, value in self._state.items():
            self._raw.restore(key, 0, value)

    def let_claims_lapse(self) -> None:
        """End all claims, as if ten seconds had passed. Another rescuer can then claim the rest."""
        for claims in ("scheduler:rescues", "scheduler:lost"):
            for member in self.client.zrange(claims, 0, -1):
                self.client.zadd(claims, {member: 0})

    def assert_rescued(self, commands: int) -> None:
        """Check that each late job waits, the early job is reported, and no key is left."""
        retry = self.fleet.job(self.retried.id)
        assert retry is not None
        lists = {f"minsched.job.{job_id}" for job_id in {*self._jobs, retry.job_id}}
        assert set(self.client.keys("minsched.*")) == lists, commands
        assert {self.client.llen(key) for key in lists} == {1}, commands
        jobs = [self.fleet.job(result.id) for result in (*self.late, self.retried)]
        assert {job.status for job in jobs} == {"waiting"}  # type: ignore[union-attr]
        report = self.fleet.app.backend.get_task_meta(self.early.id, cache=False)
        assert isinstance(report["result"], NodeLostError)
        assert not self.client.exists("scheduler:node:jobs:dead")
        assert not any("dead" in m for m in self.client.smembers("_kombu.binding.celery.pidbox"))
        assert not self.client.exists("scheduler:rescues", "scheduler:lost")
        assert Checker(self.fleet.views).check() == []


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_a_rescue_survives_the_death_of_its_rescuer(
    fleet: Fleet, server: Server, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    node = DeadNode(fleet, server)
    deadly = Deadly(monkeypatch)
    died = True
    commands = 0
    while died:
        node.restore()
        died = False
        try:
            with deadly.after(commands):
                rescue_and_tell(rescuer(server))
        except Died:
            died = True
            node.let_claims_lapse()
            rescue_and_tell(rescuer(server))
        node.assert_rescued(commands)
        commands += step
    assert commands > 50


def test_a_failure_to_start_the_reporting_thread_does_not_end_the_rescuer(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process cannot start more threads."""
    attempts: list[str] = []

    def refuse_start(self: threading.Thread) -> None:
        attempts.append(self.name)
        raise RuntimeError("can't start new thread")

    rescuer = Rescuer(fleet.plugin)
    rescuer.start()
    monkeypatch.setattr(threading.Thread, "start", refuse_start)
    for count in range(1, 3):
        rescuer.wake()
        wait_for(lambda count=count: len(attempts) == count)
    rescuer.stop()
    assert attempts == ["lost-jobs"] * 2


@pytest.mark.parametrize("successor", ["dead", "other"])
def test_if_no_node_is_alive_the_next_node_to_start_rescues(
    fleet: Fleet, server: Server, successor: str
) -> None:
    fleet.start_ready("dead", "-P", "threads", "-c", "1")
    with server.client() as client:
        results = [fleet.send("hold_late", "running"), fleet.send("hold_late", "reserved")]
        wait_for(lambda: client.exists("test:began:running", "test:began:reserved"))
        for result in results:
            wait_for(lambda result=result: fleet.job(result.id).status == "running")  # type: ignore[union-attr]
        early = fleet.send("hold", "waiting")
        fleet.destroy("dead")
        client.lpush("test:release:running", "go")
        client.lpush("test:release:reserved", "go")
        client.lpush("test:release:waiting", "go")
        fleet.start(successor, "-P", "threads")
        for result in (*results, early):
            result.get(timeout=30)
        ended = [client.lrange(f"test:ended:{name}", 0, -1) for name in ("running", "reserved")]
        assert ended == [[f"celery@{successor}"]] * 2
    fleet.wait_idle()


def test_a_message_without_a_job_stays_in_the_queue_and_blocks_no_rescue(
    fleet: Fleet, server: Server
) -> None:
    """The message was sent to the node's queue. So only this node may run it, after its return."""
    fleet.start("dead", "-P", "threads")
    fleet.start("other", "-P", "threads")
    fleet.wait_online("dead", "other")
    fleet.deafen("dead")
    to_dead = {"preferred_node": "dead"}
    first = fleet.send("note_late", "first", minsched=to_dead)
    fleet.app.send_task("tests.support.app.anywhere", queue="minsched.node.dead")
    with server.client() as client:
        client.lpush("minsched.node.dead", "not a message")
        second = fleet.send("note_late", "second", minsched=to_dead)
        lists = ("minsched.node.dead", "minsched.taken.dead")
        assert sum(map(client.llen, lists)) == 4
        fleet.destroy("dead")
        first.get(timeout=20)
        second.get(timeout=20)
        wait_for(lambda: not client.exists("scheduler:rescues"))
        assert sum(map(client.llen, lists)) == 2


def test_a_node_that_sends_heartbeats_again_is_not_rescued(desk: Desk, client: redis.Redis) -> None:
    """The node stops and finishes its running jobs."""
    desk.node("n1")
    job = desk.dispatch()
    desk.service.claim_job(job.job_id, "n1")
    client.zadd("scheduler:rescues", {"n1": 0})  # as if the node had been silent
    assert not desk.beat("n1", online=False, jobs=[job.job_id], rescues=True).rescue_due
    assert desk.service.claim_rescue() == ("", "")
    desk.complete(job)


def test_a_message_on_its_way_to_the_node_is_not_lost(
    client: redis.Redis,
) -> None:
    """A slow node has fetched the message and not reported it, and the lease has expired."""
    times = Settings(node_ttl=0.4, heartbeat_interval=0.1, lease=0.4)
    desk = Desk(MinimalSchedulerService(client, times))
    desk.node("n1")
    reported, unreported = desk.dispatch(), desk.dispatch()
    leases = desk.service.keys("node_jobs", "n1")
    wait_for(
        lambda: (
            milliseconds(client) > max(s for _, s in client.zrange(leases, 0, -1, withscores=True))
        )
    )
    desk.beat("n1", jobs=[])
    assert desk.status(reported.job_id) == desk.status(unreported.job_id) == "dispatched"
    desk.beat("n1", jobs=[reported.job_id])
    wait_for(
        lambda: desk.beat("n1", jobs=[reported.job_id]) and desk.status(unreported.job_id) == "lost"
    )
    assert desk.status(reported.job_id) == "running"
