"""Keeps the tasks of a prefork pool while the worker connects again: its processes go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.worker import state

from celery_minsched.plugin.messages import job_id_of

from .slots import Slots


@contextmanager
def keep_started_tasks(pool: Any, slots: Slots) -> Iterator[None]:
    """Context manager: keeps the tasks that were written to a process while the worker closes its
    connection.

    The worker forgets all tasks that no process has accepted yet, "since they will be redelivered"
    (celery 5.7, ``AsynPool.flush``). A task that was written to a process would run twice.
    """
    cache = getattr(getattr(pool, "_pool", None), "_cache", {})
    written = {number: result for number, result in cache.items() if result._write_to}
    for request in set(state.reserved_requests):
        result = request._apply_result and request._apply_result()
        if not getattr(result, "_write_to", True):
            slots.mark_not_started(job_id_of(request.request_dict))
    yield
    cache.update(written)
    _watch_again(pool)


def _watch_again(pool: Any) -> None:
    """Let the next event loop watch a process that has closed its sentinel and has not ended yet.

    Celery 5.7 stops watching such a process, and keeps ``None`` in place of the sentinel. A worker
    that connects again then ends with "file descriptor is None" (``_track_child_process``).
    """
    for process in getattr(getattr(pool, "_pool", None), "_pool", ()):
        if getattr(process, "_sentinel_poll", "not watched yet") is None:
            del process._sentinel_poll
