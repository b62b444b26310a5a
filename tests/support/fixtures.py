"""Fixtures that some modules use in place of those of conftest.py: ``fleet = fast_fleet``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from celery_minsched.consistency.checker import Checker

from .crowd import wait_quiet
from .fleet import FAST, Fleet
from .server import Server


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def module_client(server: Server) -> Iterator[redis.Redis]:
    """A client of the module's own server."""
    with server.client() as client:
        yield client


@pytest.fixture
def fast_fleet(server: Server) -> Iterator[Fleet]:
    """Nodes with a TTL of two seconds. After they have ended, check finds nothing."""
    fleet = Fleet(server, **FAST)
    yield fleet
    fleet.close()
    assert Checker(fleet.views).check() == []


@contextmanager
def fleet_on_empty(server: Server) -> Iterator[Fleet]:
    """Context manager: nodes with a TTL of two seconds, on a server without keys."""
    with server.client() as client:
        client.flushall()
    fleet = Fleet(server, **FAST)
    yield fleet
    fleet.close()


@pytest.fixture
def kept_client(_server: Server) -> Iterator[redis.Redis]:
    """A client of the session's server. The server keeps its keys."""
    with _server.client() as client:
        yield client


@pytest.fixture
def quiet_fleet(nodes: Fleet, client: redis.Redis) -> Iterator[Fleet]:
    """The module's fixture ``nodes``. After each test no job waits and no message is left."""
    yield nodes
    wait_quiet(nodes, client)
