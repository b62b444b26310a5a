"""A node that starts while Redis fails waits for Redis or ends. It never runs half started."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from celery_minsched.consistency.checker import Checker

from ..support.crowd import mark
from ..support.desk import Desk
from ..support.fleet import FAST, Fleet, wait_for
from ..support.proxy import Proxy
from ..support.server import Server

LEFT = 400  # jobs of the previous process. With this number the start takes a moment


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


@pytest.fixture
def fleet(server: Server) -> Iterator[Fleet]:
    fleet = Fleet(server, **FAST)
    yield fleet
    fleet.close()


def leave_jobs(fleet: Fleet) -> None:
    """Register node n1, dispatch jobs to it and let it leave with the jobs in its queue."""
    desk = Desk(fleet.plugin.scheduler)
    desk.node("n1", LEFT)
    fleet.plugin.dispatch_many(mark(fleet.app, "left", number) for number in range(LEFT))
    desk.beat("n1", online=False, jobs=[])


def test_a_node_starts_although_redis_is_killed_while_it_hands_back_old_jobs(
    fleet: Fleet, server: Server
) -> None:
    leave_jobs(fleet)
    with server.client() as client:
        queue = "minsched.node.n1"
        fleet.start("n1", "-P", "threads")
        wait_for(lambda: 0 < client.llen(queue) < LEFT, "the node to move messages")
        server.stop(signal.SIGKILL)
    wait_for(lambda: "Redis is not ready yet" in fleet.log("n1"), "the node to wait", 30)
    server.start()
    fleet.wait_online("n1")
    with server.client() as client:
        wait_for(lambda: client.llen("test:marks:left") == LEFT, "all jobs to run", 60)
    fleet.wait_idle()
    assert Checker(fleet.views).check() == []


def test_a_node_that_cannot_start_ends_with_an_error(fleet: Fleet, server: Server) -> None:
    with server.client() as client:
        client.set("minsched.node.n1", "not a list")
        fleet.start("n1")
        assert fleet.processes["n1"].wait(30) == 1
        node = fleet.node("n1")
        assert node
        assert node.state == "left"
        assert "WRONGTYPE" in fleet.log("n1")
        assert "Traceback" not in fleet.log("n1")


def test_a_node_waits_at_its_start_while_the_network_is_slow(server: Server) -> None:
    """Heartbeats have a separate connection with a short timeout."""
    proxy = Proxy(server.port)
    times = {"node_ttl": 0.6, "heartbeat_interval": 0.15}
    at_once = {"MINSCHED_TEST_RETRY_AT_ONCE": "1"}
    fleet = Fleet(server, broker=proxy.url, environment=at_once, **FAST | times)
    try:
        timeout = fleet.plugin.scheduler.settings.pulse_timeout
        proxy.delay = 0.6 * timeout
        fleet.start("n1", "-P", "threads")
        wait_for(lambda: "Redis is not ready yet: Timeout" in fleet.log("n1"), "n1 to wait", 60)
        proxy.delay = 0.0
        fleet.wait_online("n1")
        assert "Traceback" not in fleet.log("n1")
    finally:
        fleet.close()
        proxy.close()
