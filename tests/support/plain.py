"""A plain Celery worker, and messages for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from celery.result import AsyncResult

from celery_minsched.core.keys import Keys

from .fleet import ROOT, Fleet, wait_for

QUEUE = "plain"


def put(app: Celery, task: str, *args: Any, queue: str = QUEUE, **options: Any) -> AsyncResult:
    """Send a task of tests/support/app.py to an ordinary queue, as plain Celery does."""
    return app.send_task(f"tests.support.app.{task}", args, queue=queue, **options)


def queue_length(client: redis.Redis, queue: str = QUEUE) -> int:
    """The number of messages in an ordinary queue."""
    with client.pipeline(transaction=False) as pipe:
        for suffix in Keys().suffixes:
            pipe.llen(queue + suffix)
        return sum(pipe.execute())


@contextmanager
def plain_worker(fleet: Fleet, *queues: str, threads: int = 4) -> Iterator[None]:
    """Context manager: a Celery worker consumes ordinary queues. It stops with exit code 0."""
    name = f"worker@{'-'.join(queues)}"
    with open(fleet.log_path("plain"), "ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", fleet.app_name, "worker"),
                *("-Q", ",".join(queues), "-n", name, "-P", "threads", "-c", str(threads)),
                *("--without-mingle", "--without-gossip", "--loglevel", "INFO"),
            ],
            cwd=ROOT,
            env=fleet.environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: "ready." in fleet.log("plain"), "the plain worker")
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0, fleet.log_tail("plain")
