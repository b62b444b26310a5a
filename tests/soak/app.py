"""The tasks of the soak. With ``SOAK_PLAIN`` set the application has no scheduler."""

from __future__ import annotations

import os
import signal
import time
import uuid
from typing import Any

from celery import Celery
from celery.backends.redis import RedisBackend

from celery_minsched import MinSched

from .ledger import Ledger

# A forked child inherits this value.
AGENT = os.getpid()
RETRIES = 2
POOL = "soak"

NODE_TTL = float(os.environ["SOAK_NODE_TTL"])  # seconds


class Backend(RedisBackend):
    """A result backend that does not store RETRY.

    Celery (5.7) sends a retry before it stores RETRY. If Redis is slow at that moment, RETRY
    replaces the SUCCESS of the retry.
    """

    def mark_as_retry(self, *args: Any, **kwargs: Any) -> None:
        return None


url = os.environ["SOAK_BROKER"]
ledger = Ledger(os.environ["SOAK_LEDGER"])
app = Celery("soak", broker=url, backend=f"tests.soak.app:Backend+{url}")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # With Celery's defaults a worker loses the result or the retry of a task if Redis is
    # unreachable for more than a second.
    result_backend_always_retry=True,
    task_publish_retry_policy={"max_retries": 60, "interval_start": 0.1, "interval_max": 0.5},
)
if os.environ.get("SOAK_PLAIN"):
    app.conf.broker_transport_options = {
        "visibility_timeout": float(os.environ["SOAK_VISIBILITY_TIMEOUT"])
    }
else:
    app.conf.update(
        minsched_node_ttl=NODE_TTL,
        minsched_heartbeat_interval=NODE_TTL / 5,
        minsched_lease=NODE_TTL * 3,
    )
    MinSched(app)


def task(**options: Any) -> Any:
    """A bound task for any node."""
    return app.task(bind=True, minsched={"pool": POOL}, **options)


def begin(self: Any) -> str:
    """Write the begin of the task to the ledger. Returns the id of this run."""
    run = uuid.uuid4().hex
    request = self.request
    node_id = request.hostname.partition("@")[2]
    message = request.properties["delivery_tag"]
    ledger.begin(run, request.id, message, request.retries, node_id)
    return run


def _works(self: Any, seconds: float) -> float:
    run = begin(self)
    time.sleep(seconds)
    ledger.end(run, "done")
    return seconds


def _fails(self: Any, seconds: float) -> None:
    run = begin(self)
    time.sleep(seconds)
    ledger.end(run, "failed")
    raise ValueError("no luck")


def _retries(self: Any, seconds: float) -> float:
    """Retry until the last attempt, and then succeed."""
    run = begin(self)
    time.sleep(seconds)
    if self.request.retries < RETRIES:
        ledger.end(run, "retry")
        # Celery (5.7) stores RETRY after it has sent the retry. RETRY must not replace its SUCCESS.
        raise self.retry(countdown=0.5 + seconds * 4)
    ledger.end(run, "done")
    return seconds


early = task(name="early")(_works)
late = task(name="late", acks_late=True)(_works)
failing_early = task(name="failing_early")(_fails)
failing_late = task(name="failing_late", acks_late=True)(_fails)
retrying_early = task(name="retrying_early", max_retries=RETRIES)(_retries)
retrying_late = task(name="retrying_late", max_retries=RETRIES, acks_late=True)(_retries)


@task(name="poison", acks_late=True)
def poison(self: Any, seconds: float) -> None:
    """Kill the worker in each run."""
    begin(self)
    time.sleep(seconds)
    os.kill(AGENT, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # only a child process reaches this line
