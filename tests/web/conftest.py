"""Three instances of Flower, a browser and a real node, started once for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.queries import Views

from ..support.desk import Desk
from ..support.fleet import Fleet
from ..support.flowers import Browser, Flowers, NodeServer


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def web(stack: ExitStack) -> NodeServer:
    server = NodeServer()
    stack.callback(server.close)
    return server


@pytest.fixture(scope="module")
def flowers(stack: ExitStack, web: NodeServer) -> Flowers:
    flowers = Flowers(web)
    stack.callback(flowers.close)
    return flowers


@pytest.fixture
def node(flowers: Flowers) -> Fleet:
    """A fleet with the real node real-1. Two instances of Flower show it."""
    flowers.plain.wait_ready()
    flowers.closed.wait_ready()
    flowers.fleet.wait_online("real-1")
    return flowers.fleet


@pytest.fixture(scope="module")
def browser(stack: ExitStack) -> Browser:
    browser = Browser()
    stack.callback(browser.close)
    return browser


@pytest.fixture
def desk(web: NodeServer, flowers: Flowers) -> Iterator[Desk]:
    """The scheduler that ``flowers.open`` shows, without nodes and jobs."""
    with web.client() as client:
        for key in [*client.scan_iter("scheduler:*"), *client.scan_iter("minsched.*")]:
            client.delete(key)
        service = MinimalSchedulerService(client)
        flowers.open.wait_ready()
        yield Desk(service)
        assert Checker(Views(client, service.keys)).check() == []


@pytest.fixture
def look(browser: Browser, flowers: Flowers) -> Iterator[Any]:
    """Opens a page of ``flowers.open``. Fails after the test if the browser has logged an error."""
    yield lambda page, width=1280: browser.open(f"{flowers.open.root}/minsched/{page}", width)
    assert browser.errors() == []
