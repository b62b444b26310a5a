"""Shared fixtures: one real server for the session, and a fleet of real nodes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator

import hypothesis  # noqa: F401 - before any test: its plugin imports it at the end, too deep down
import kombu.pools
import pytest
import redis

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.queries import Views

from .support.desk import Desk
from .support.fleet import Fleet
from .support.scene import Scene
from .support.server import Server

# A shell starts a background job with SIGINT ignored, and child processes would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the modules, so that the last ones are short. A module keeps the order of its tests.

    Modules with a fixture of their own come first, then modules that start nodes.
    """
    functions = [item for item in items if isinstance(item, pytest.Function)]
    with_fixture = {item.path for item in functions if shares_a_fixture(item)}
    with_nodes = {item.path for item in functions if hasattr(item.module, "Fleet")}
    items.sort(key=lambda item: (item.path not in with_fixture, item.path not in with_nodes))


def shares_a_fixture(item: pytest.Function) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    return any(fixture[-1].scope in ("package", "module", "class") for fixture in fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the logs of the nodes to the report of a failed test."""
    report = yield
    for fleet in getattr(item, "funcargs", {}).values() if report.failed else ():
        if isinstance(fleet, Fleet):
            for node_id in fleet.processes:
                report.sections.append((f"log of {node_id}", fleet.log_tail(node_id, 40)))
    return report


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(_server: Server) -> Server:
    """The server of the session, empty. A test that stops a server uses its own: kombu keeps
    connections for later tests.
    """
    with _server.client() as client:
        client.flushall()
    return _server


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.client() as client:
        yield client


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses of kombu and redis-py between two attempts to connect."""
    for module in ("kombu.utils.functional", "redis.retry"):
        monkeypatch.setattr(f"{module}.sleep", lambda seconds: None)


@pytest.fixture
def cut_connections(client: redis.Redis) -> Iterator[Callable[[], None]]:
    """A function that breaks all connections to the server, except the test's own.

    Afterwards kombu's pools are reset: another test would get a broken connection.
    """
    yield lambda: client.client_kill_filter(_type="normal", skipme=True)
    kombu.pools.reset()


@pytest.fixture
def service(client: redis.Redis) -> Iterator[MinimalSchedulerService]:
    """A scheduler without Celery. After the test, check must find nothing."""
    service = MinimalSchedulerService(client)
    yield service
    assert Checker(Views(client, service.keys)).check() == []


@pytest.fixture
def desk(service: MinimalSchedulerService) -> Desk:
    return Desk(service)


@pytest.fixture
def scene(server: Server) -> Iterator[Scene]:
    """A fleet with a record of each kind, and its faces."""
    scene = Scene(server)
    yield scene
    scene.close()


@pytest.fixture
def fleet(server: Server) -> Iterator[Fleet]:
    """A fleet of real nodes. After the test, all have ended."""
    fleet = Fleet(server)
    yield fleet
    fleet.close()
