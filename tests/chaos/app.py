"""The soak's application with more tasks and with the code of faults inside a node."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from celery import signals
from celery.exceptions import Reject
from redis.exceptions import RedisError

from ..soak.app import Backend, app, begin, ledger, task

#: Each process of a node's pool writes a file here. The other child of a node is its pulse.
CHILDREN = Path(os.environ["CHAOS_CHILDREN"])
#: A task writes a file here when it requeues its message.
REQUEUED = Path(os.environ["CHAOS_REQUEUED"])
HANG = (2.0, 14.0)  # seconds
URGENT = "urgent"  # a shadow name: a publish handler gives these tasks a priority


class PatientBackend(Backend):
    """A result backend that also retries if Redis is out of memory or read-only."""

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, RedisError) or bool(super().exception_safe_to_retry(exc))


app.conf.update(
    result_backend=f"tests.chaos.app:PatientBackend+{os.environ['SOAK_BROKER']}",
    # The timeout detects a silently dropped connection. Celery's default is two minutes.
    redis_socket_timeout=5.0,
    redis_socket_connect_timeout=5.0,
)


def _hang(*_: Any) -> None:
    """Block the main thread, as a lock or a library that hangs does."""
    time.sleep(random.uniform(*HANG))


signal.signal(signal.SIGUSR2, _hang)


@signals.worker_process_init.connect
def _note_child(**_: Any) -> None:
    (CHILDREN / str(os.getpid())).touch()


@signals.before_task_publish.connect
def _give_priority(headers: Any = None, properties: Any = None, **_: Any) -> None:
    if headers.get("shadow") == URGENT:
        properties["priority"] = 6


@task(name="requeueing_late", acks_late=True)
def requeueing_late(self: Any, seconds: float) -> float:
    """Requeues its message once."""
    run = begin(self)
    time.sleep(seconds)
    mark = REQUEUED / self.request.id
    if not mark.exists():
        mark.touch()
        ledger.end(run, "requeued")
        raise Reject("again", requeue=True)
    ledger.end(run, "done")
    return seconds
