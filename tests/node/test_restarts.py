"""Stops and restarts of nodes lose no job silently."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import redis
from celery.result import AsyncResult

from celery_minsched import NodeLostError
from celery_minsched.consistency.checker import Checker
from node_agent.kombu_keys import transport_options

from ..support.fixtures import module_client, module_server
from ..support.fleet import FAST, Fleet, checked, make_app, wait_for
from ..support.server import Server

server, client = module_server, module_client


@pytest.fixture(scope="module")
def fleet(server: Server) -> Iterator[Fleet]:
    with checked(Fleet(server, **FAST)) as fleet:
        fleet.start_ready("safe", "-P", "threads", slots=6)
        yield fleet


def hold(fleet: Fleet, client: redis.Redis, node_id: str) -> tuple[AsyncResult, AsyncResult]:
    """An early and a late task that run on the node until they are released."""
    early, late = (
        fleet.send(task, f"{what}-{node_id}", minsched={"preferred_node": node_id})
        for task, what in (("hold", "early"), ("hold_late", "late"))
    )
    wait_for(
        lambda: client.exists(f"test:began:early-{node_id}", f"test:began:late-{node_id}") == 2
    )
    return early, late


def began(client: redis.Redis, task_name: str) -> list[str]:
    return [
        name.removeprefix("celery@") for name in client.lrange(f"test:began:{task_name}", 0, -1)
    ]


def let_go(client: redis.Redis, *names: str) -> None:
    for name in names:
        client.lpush(f"test:release:{name}", "go")


@pytest.mark.parametrize("shutdown", ["SIGQUIT", "SIGINT twice"])
def test_a_cold_shutdown_loses_no_job_silently(
    fleet: Fleet, client: redis.Redis, shutdown: str
) -> None:
    """Celery stores RETRY for an early task, and no worker retries it."""
    name = shutdown.split()[0]
    fleet.start_ready(name, "-P", "prefork", slots=2)
    early, late = hold(fleet, client, name)
    if shutdown == "SIGQUIT":
        fleet.kill(name, signal.SIGQUIT)
    else:
        fleet.kill_all(name, signal.SIGINT)
        wait_for(lambda: not fleet.node(name).online)  # type: ignore[union-attr]
        assert fleet.processes[name].poll() is None  # it waits for its tasks
        fleet.kill_all(name, signal.SIGINT)
    fleet.processes[name].wait(60)
    wait_for(lambda: began(client, f"late-{name}") == [name, "safe"])
    let_go(client, f"late-{name}")
    late.get(timeout=20)
    with pytest.raises(NodeLostError, match="its node was lost while it ran"):
        early.get(timeout=20)
    assert fleet.job(early.id).status == "lost"  # type: ignore[union-attr]


def test_a_cold_shutdown_waits_for_threads(fleet: Fleet, client: redis.Redis) -> None:
    """Threads cannot be killed."""
    fleet.start_ready("threads", "-P", "threads", slots=2)
    results = hold(fleet, client, "threads")
    fleet.kill("threads", signal.SIGQUIT)
    wait_for(lambda: not fleet.node("threads").online)  # type: ignore[union-attr]
    let_go(client, "early-threads", "late-threads")
    for result in results:
        result.get(timeout=20)
    fleet.processes["threads"].wait(60)
    for task_name in ("early-threads", "late-threads"):
        assert client.lrange(f"test:ended:{task_name}", 0, -1)[0] == "celery@threads"


def test_a_soft_shutdown_waits_and_then_hands_back_the_late_tasks(
    fleet: Fleet, server: Server, client: redis.Redis
) -> None:
    soft = Fleet(server, celery={"worker_soft_shutdown_timeout": 2}, **FAST)
    try:
        soft.start_ready("soft", "-P", "prefork", slots=2)
        early, late = hold(fleet, client, "soft")
        soft.kill("soft", signal.SIGQUIT)
        wait_for(lambda: not fleet.node("soft").online)  # type: ignore[union-attr]
        let_go(client, "early-soft")
        early.get(timeout=20)
        assert soft.processes["soft"].poll() is None
        soft.processes["soft"].wait(60)
        wait_for(lambda: began(client, "late-soft") == ["soft", "safe"])
        let_go(client, "late-soft")
        late.get(timeout=20)
        assert fleet.job(early.id).node_id == "soft"  # type: ignore[union-attr]
    finally:
        soft.close()


def test_a_rolling_restart_under_load_loses_no_job(server: Server, client: redis.Redis) -> None:
    """Two of three nodes are stopped. The third is killed while it has late tasks."""
    fleet = Fleet(server, **FAST)
    nodes = ["roll-1", "roll-2", "roll-3"]
    sent: dict[str, AsyncResult] = {}

    def send(number: int, task: str) -> None:
        for _ in range(number):
            task_name = f"roll{len(sent)}"
            sent[task_name] = fleet.send(task, task_name, 0.05, minsched={"pool": "roll"})

    try:
        for node_id in nodes:
            fleet.start(node_id, "-P", "threads", "-c", "2", slots=4, pool="roll")
        fleet.wait_online(*nodes)
        for node_id in nodes[:2]:
            send(40, "note")
            assert fleet.stop(node_id) == 0
            send(20, "note")
            fleet.start(node_id, "-P", "threads", slots=4, pool="roll")
            send(20, "note")
            fleet.wait_online(node_id)
        before_kill = len(sent)
        for result in sent.values():
            result.get(timeout=30)
        send(40, "note_late")
        fleet.destroy(nodes[2])
        fleet.start(nodes[2], "-P", "threads", slots=4, pool="roll")
        for task_name, result in sent.items():
            assert result.get(timeout=30) == task_name
        times = [client.llen(f"test:ended:{task_name}") for task_name in sent]
        assert times[:before_kill] == [1] * before_kill
        assert set(times[before_kill:]) <= {1, 2}
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(25.0, marks=pytest.mark.soak)])
def test_a_task_longer_than_the_visibility_timeout_runs_once(
    server: Server, client: redis.Redis, seconds: float
) -> None:
    """kombu 5.7 restores overdue messages every ten seconds.

    In this test kombu restores them all the time.
    """
    options = {"broker_transport_options": {"visibility_timeout": 1}}
    fleet = Fleet(server, celery=options, **FAST)
    task_name = f"long-{seconds}"
    try:
        fleet.start_ready("long", "-P", "threads", pool="long")
        result = fleet.send("note_late", task_name, seconds, minsched={"pool": "long"})
        wait_for(lambda: client.exists(f"test:began:{task_name}"))
        app = make_app(server.url, **options)
        with app.connection_for_read(
            transport_options=transport_options(app, "long")
        ) as connection:

            def ends() -> bool:
                connection.default_channel.qos.restore_visible(interval=1)
                return bool(result.ready())

            wait_for(ends, patience=60)
        assert client.lrange(f"test:began:{task_name}", 0, -1) == ["celery@long"]
        fleet.wait_idle()
    finally:
        fleet.close()
