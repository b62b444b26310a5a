"""A node that starts while Redis fails waits for it, or ends; it never stays there half started."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from celery_minsched.consistency.checker import Checker

from ..support.desk import Desk
from ..support.fleet import FAST, Fleet, wait_for
from ..support.proxy import Proxy
from ..support.server import Server

LEFT = 400  # jobs that the process before has left behind: seeing to them takes the start a moment


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


def leave(fleet: Fleet) -> None:
    """A process was node n1, and left with jobs in its queue."""
    desk = Desk(fleet.plugin.scheduler)
    desk.node("n1", LEFT)
    for number in range(LEFT):
        fleet.send("mark", "left", number)
    desk.beat("n1", online=False, jobs=[])


def test_redis_is_killed_while_a_node_sees_to_what_was_left(fleet: Fleet, server: Server) -> None:
    leave(fleet)
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


def test_a_node_that_cannot_start_ends(fleet: Fleet, server: Server) -> None:
    with server.client() as client:
        client.set("minsched.node.n1", "not a list")
        fleet.start("n1")
        assert fleet.processes["n1"].wait(30) == 1
        node = fleet.node("n1")
        assert node
        assert node.state == "left"
        assert "WRONGTYPE" in fleet.log("n1")
        assert "Traceback" not in fleet.log("n1")


def test_a_node_that_starts_while_the_network_is_slow_waits(server: Server) -> None:
    """Its heartbeats have a connection of their own, with a short time-out."""
    proxy = Proxy(server.port)
    times = {"node_ttl": 1.0, "heartbeat_interval": 0.25}
    fleet = Fleet(server, broker=proxy.url, **FAST | times)
    try:
        timeout = fleet.plugin.scheduler.settings.pulse_timeout
        proxy.delay = 0.6 * timeout
        fleet.start("n1", "-P", "threads")
        wait_for(lambda: "Redis is not ready yet: Timeout" in fleet.log("n1"), "it to wait", 60)
        proxy.delay = 0.0
        fleet.wait_online("n1")
        assert "Traceback" not in fleet.log("n1")
    finally:
        fleet.close()
        proxy.close()
