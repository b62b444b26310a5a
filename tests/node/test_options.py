"""A node refuses some options and pool implementations of ``celery worker``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click
import pytest
from celery import Celery, concurrency
from celery.concurrency.base import BasePool
from celery.concurrency.thread import TaskPool

from node_agent.options import check_options, check_pool

from ..support.fleet import make_app


class OwnPool(BasePool):
    """A pool implementation that is not derived from a supported one."""


class OwnThreads(TaskPool):
    """A pool implementation that is derived from a supported one."""


@pytest.fixture
def app() -> Iterator[Celery]:
    app = make_app("redis://")
    yield app
    app.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("-Q other", "-Q/--queues: a node consumes its own queue and no other"),
        ("-Qother", "-Q/--queues"),
        ("--queues=celery", "-Q/--queues"),
        ("-X other", "-X/--exclude-queues"),
        ("-EXother", "-X/--exclude-queues"),
        ("--exclude-queues other", "-X/--exclude-queues"),
        ("-nx", "-n/--hostname"),
        ("--hostname=x", "-n/--hostname"),
        ("-D", "-D/--detach"),
        ("-ED", "-D/--detach"),
        ("--discard", "--purge/--discard: the jobs in the node's queue would be lost"),
        ("--prefetch-multiplier=2", "--prefetch-multiplier: a node takes each message"),
        ("--disable-prefetch", "--disable-prefetch"),
        ("--no-such-option", "No such option"),
    ],
)
def test_a_forbidden_option_is_refused_in_each_spelling(
    app: Celery, options: str, text: str
) -> None:
    with pytest.raises(click.UsageError, match=re.escape(text)):
        check_options(app, options.split())


def test_other_options_are_accepted(app: Celery) -> None:
    check_options(app, ["-E", "--without-mingle", "-l", "INFO", "--statedb=x", "-B", "-Ofair"])


def test_a_forbidden_option_from_the_environment_is_refused(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_WORKER_EXCLUDE_QUEUES", "other")
    with pytest.raises(click.UsageError, match="leave out -X/--exclude-queues"):
        check_options(app, [])


@pytest.mark.parametrize(
    ("option", "configured", "is_supported"),
    [
        ("prefork", None, True),
        ("processes", None, True),
        ("threads", None, True),
        ("solo", None, True),
        ("gevent", None, False),
        ("eventlet", None, False),
        ("custom", None, False),
        ("prefork", "gevent", False),
        ("prefork", "threads", True),
        ("threads", "gevent", True),
        ("prefork", f"{__name__}:OwnPool", False),
        ("prefork", f"{__name__}:OwnThreads", True),
        ("prefork", OwnThreads, True),
        ("prefork", "no_such_module:Pool", False),
    ],
)
def test_only_supported_pool_implementations_are_accepted(
    app: Celery, option: str, configured: Any, is_supported: bool
) -> None:
    app.conf.worker_pool = configured
    if is_supported:
        check_pool(app, option)
    else:
        with pytest.raises(click.UsageError, match="the pool implementation"):
            check_pool(app, option)


def test_a_custom_pool_is_refused_by_name(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(concurrency.ALIASES, "custom", f"{__name__}:OwnPool")
    with pytest.raises(click.UsageError, match="implementation 'custom'"):
        check_pool(app, "custom")
