"""The pulse sends heartbeats although other parts of the node fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
import redis

from ..support.fixtures import module_client, module_server
from ..support.fleet import FAST, Fleet, checked, wait_for
from ..support.server import Server

NODE_TTL = 2000  # ms

server, client = module_server, module_client


@pytest.fixture(scope="module")
def fleet(server: Server) -> Iterator[Fleet]:
    """A node "other" that detects dead nodes."""
    with checked(Fleet(server, **FAST)) as fleet:
        fleet.start_ready("other", "-P", "threads", pool="other")
        yield fleet


def heartbeat(fleet: Fleet, node_id: str) -> int:
    node = fleet.node(node_id)
    assert node is not None
    return node.last_heartbeat_ts


def wait_heartbeats(fleet: Fleet, node_id: str) -> None:
    """Wait for heartbeats over a time longer than the TTL."""
    start = heartbeat(fleet, node_id)
    wait_for(lambda: heartbeat(fleet, node_id) > start + NODE_TTL + 500)


def test_a_node_that_stops_while_redis_is_out_of_memory_is_not_declared_dead(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start_ready("n1", "-P", "threads")
    early, late = fleet.send("hold", "early"), fleet.send("hold_late", "late")
    wait_for(lambda: client.exists("test:began:early", "test:began:late") == 2)
    client.config_set("maxmemory", 1)
    try:
        fleet.kill("n1", signal.SIGTERM)
        wait_for(lambda: not fleet.node("n1").online)  # type: ignore[union-attr]
        wait_heartbeats(fleet, "n1")
    finally:
        client.config_set("maxmemory", 0)
    assert {fleet.job(job.id).status for job in (early, late)} == {"running"}  # type: ignore[union-attr]
    for name in ("early", "late"):
        client.lpush(f"test:release:{name}", "go")
    assert fleet.processes["n1"].wait(60) == 0
    for job, name in ((early, "early"), (late, "late")):
        assert fleet.job(job.id).status == "finished"  # type: ignore[union-attr]
        assert client.lrange(f"test:began:{name}", 0, -1) == ["celery@n1"]
    assert "n1" not in fleet.log("other")


def test_a_node_that_cannot_be_registered_sends_heartbeats(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start_ready("n2", "-P", "prefork", slots=1)
    client.rename("scheduler:pools", "kept")
    client.set("scheduler:pools", "not a set")
    fleet.app.control.pool_grow(1, destination=["celery@n2"])
    wait_for(lambda: "Redis refuses" in fleet.log("n2"))
    wait_heartbeats(fleet, "n2")
    assert fleet.node("n2").online  # type: ignore[union-attr]
    client.rename("kept", "scheduler:pools")
    wait_for(lambda: fleet.node("n2").max_jobs == 2)  # type: ignore[union-attr]


def test_a_pulse_that_cannot_be_restarted_at_once_is_restarted_later(
    fleet: Fleet, client: redis.Redis
) -> None:
    """A machine without memory kills the pulse and cannot fork another for a while."""
    fleet.start_ready("n5", "-P", "threads")
    agent = psutil.Process(fleet.processes["n5"].pid)
    open_fds = {int(fd) for fd in os.listdir(f"/proc/{agent.pid}/fd")}
    limit = agent.rlimit(psutil.RLIMIT_NOFILE)
    free = min(set(range(len(open_fds) + 1)) - open_fds)
    agent.rlimit(psutil.RLIMIT_NOFILE, (free, limit[1]))  # the agent cannot open a pipe
    for child in agent.children():
        child.kill()
    wait_for(lambda: "cannot be started now" in fleet.log("n5"))
    agent.rlimit(psutil.RLIMIT_NOFILE, limit)
    wait_heartbeats(fleet, "n5")
    task = fleet.send("where_am_i", minsched={"preferred_node": "n5"})
    assert task.get(timeout=20)["hostname"] == "celery@n5"


def test_the_jobs_of_a_prefork_node_begin_in_order_after_its_pulse_was_suspended(
    fleet: Fleet, client: redis.Redis
) -> None:
    """While the pulse is suspended, the jobs wait until the node knows its term."""
    count = 600  # nested calls for each job would exceed Python's recursion limit
    fleet.start_ready("n4", "-P", "prefork", "-c", "1", slots=count + 1, pool="many")
    options = {"minsched": {"pool": "many"}}
    fleet.send("hold", "first", **options)
    wait_for(lambda: client.exists("test:began:first"))
    marks = [
        fleet.app.signature("tests.support.app.mark", ("many", n), **options) for n in range(count)
    ]
    fleet.plugin.dispatch_many(marks)
    wait_for(lambda: client.hlen("minsched.unacked.n4") == count + 1)
    agent = psutil.Process(fleet.processes["n4"].pid)
    pulse = min(agent.children(), key=lambda child: child.pid)
    term = client.hget("scheduler:node:info:n4", "term")
    pulse.suspend()
    silent_since = heartbeat(fleet, "n4")
    wait_for(lambda: fleet.views.now() > silent_since + 700)  # more than two intervals
    client.lpush("test:release:first", "go")
    wait_for(lambda: client.hlen("minsched.unacked.n4") != count + 1)
    pulse.resume()
    wait_for(lambda: client.llen("test:marks:many") == count)
    numbers = client.lrange("test:marks:many", 0, -1)
    assert sorted(map(int, numbers)) == list(range(count))
    if client.hget("scheduler:node:info:n4", "term") == term:  # it was not declared dead
        assert numbers == [str(n) for n in range(count)]


def test_a_node_that_cannot_read_proc_sends_heartbeats(fleet: Fleet) -> None:
    fleet.environment["MINSCHED_TEST_PROCFS"] = fleet.logs.name
    fleet.start_ready("n3", "-P", "threads")
    del fleet.environment["MINSCHED_TEST_PROCFS"]
    wait_heartbeats(fleet, "n3")
    assert fleet.node("n3").online  # type: ignore[union-attr]
    assert "the pulse process is gone" not in fleet.log("n3")
