"""Helpers of tests with waiting jobs: busy nodes, and the end of all jobs after a test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery, Signature, signature
from celery.result import AsyncResult

from celery_minsched.consistency.checker import Checker

from .fleet import Fleet, wait_for


def sig(app: Celery, task: str, *args: Any, **options: Any) -> Signature:
    """A signature of a task of tests/support/app.py, with a demand for pool "asr"."""
    demand = {"pool": "asr", **options.pop("minsched", {})}
    return signature(f"tests.support.app.{task}", args, app=app).set(minsched=demand, **options)


def mark(app: Celery, list_name: str, text: Any, **options: Any) -> Signature:
    """A signature of the task ``mark``, without a result."""
    return sig(app, "mark", list_name, text, ignore_result=True, **options)


def status(fleet: Fleet, result: AsyncResult) -> str:
    job = fleet.job(result.id)
    return job.status if job else ""


def node_of(fleet: Fleet, result: AsyncResult) -> str:
    job = fleet.job(result.id)
    return job.node_id if job else ""


def wait_status(fleet: Fleet, wanted: str, *results: AsyncResult) -> None:
    for result in results:
        wait_for(
            lambda result=result: status(fleet, result) == wanted,
            f"{result.id} to be {wanted}: {fleet.job(result.id)}",
        )


class Held:
    """A task that holds a slot until ``release``."""

    def __init__(self, fleet: Fleet, client: redis.Redis, node_id: str, **demand: Any) -> None:
        self.what = uuid.uuid4().hex
        self._client = client
        self._released = False
        wanted = {"preferred_node": node_id, "affinity": "require", **demand}
        self.result = fleet.send("hold", self.what, minsched=wanted)
        wait_for(lambda: client.exists(f"test:began:{self.what}"), f"{node_id} to be held")
        assert node_of(fleet, self.result) == node_id

    def release(self) -> None:
        """End the task. A second call does nothing."""
        if not self._released:
            self._client.lpush(f"test:release:{self.what}", "now")
            self.result.get(timeout=20)
        self._released = True


@contextmanager
def held(fleet: Fleet, client: redis.Redis, *node_ids: str, **demand: Any) -> Iterator[list[Held]]:
    """Context manager: a task holds one slot of each node. The block may release some itself."""
    holds: list[Held] = []
    try:
        for node_id in node_ids:
            holds.append(Held(fleet, client, node_id, **demand))
        yield holds
    finally:
        for hold in holds:
            hold.release()


def marks(client: redis.Redis, where: str, count: int, patience: float = 60.0) -> list[str]:
    """Wait for ``count`` calls of ``mark``. Returns what they wrote."""
    key = f"test:marks:{where}"
    wait_for(lambda: client.llen(key) >= count, f"{count} marks: {client.llen(key)}", patience)
    written: list[str] = client.lrange(key, 0, -1)
    return written


def wait_quiet(fleet: Fleet, client: redis.Redis) -> None:
    """Wait until each slot is free and no job waits. Checks that no key of waiting jobs is left."""
    keys = fleet.plugin.scheduler.keys
    fleet.wait_idle(patience=60)
    sets = [keys(name) for name in ("lines", "delayed", "expiring", "rescues", "lost")]
    wait_for(lambda: not client.exists(*sets), "no job to wait", patience=60)
    wait_for(lambda: not client.keys("minsched.*"), "no message to be left", patience=60)
    assert not client.keys(keys("waiting", "*"))
    assert Checker(fleet.views).check() == []
