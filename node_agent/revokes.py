"""Celery's ``revoke`` and ``terminate``. They also find a task that waits for a slot or its time.

Celery's own commands (5.7) ask the result backend about each task in the worker's event loop:
10,000 tasks stop the worker for seconds. Here a thread asks. The outbox takes the tasks out of
their lines.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

from celery import Celery, states
from celery.utils.functional import maybe_list
from celery.worker import control
from celery.worker import state as worker_state
from celery.worker.control import control_command, ok
from redis.exceptions import ResponseError

from celery_minsched import MinimalSchedulerService
from celery_minsched.core.paging import MOST_REVOKED, slices

from .outbox import Outbox, is_temporary

logger = logging.getLogger(__name__)

_NOT_STARTED = (states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED)


class WaitingTasks:
    """Takes revoked tasks out of the lines in which they wait, through the outbox."""

    def __init__(self, scheduler: MinimalSchedulerService, node_id: str, outbox: Outbox) -> None:
        self._scheduler = scheduler
        self._node_id = node_id
        self._outbox = outbox

    def revoke(self, task_ids: Sequence[str]) -> None:
        """Take these tasks out of their lines, after the endings of jobs. Does not block."""
        for page in slices(task_ids, MOST_REVOKED):
            self._put(page)

    def _put(self, task_ids: Sequence[str]) -> None:
        name = f"revoke task {task_ids[0]}"
        if len(task_ids) > 1:
            name += f" and {len(task_ids) - 1} more"
        self._outbox.put(name, partial(self._revoke, task_ids))

    def _revoke(self, task_ids: Sequence[str]) -> None:
        try:
            self._scheduler.revoke_tasks(task_ids, self._node_id)
        except ResponseError as exc:
            if len(task_ids) == 1 or is_temporary(exc):
                raise
            for task_id in task_ids:  # the error of one task must not hold up the others
                self._put([task_id])


class RevokedResults:
    """Stores the results of revoked tasks, in a thread that starts with the first of them."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._task_ids: SimpleQueue[Sequence[str]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, task_ids: Sequence[str]) -> None:
        """Store the results of these tasks. Does not block."""
        self._task_ids.put(task_ids)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="revoked-results", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            for task_id in self._task_ids.get():
                try:
                    _store(self._app, task_id)
                except Exception as exc:
                    logger.warning(
                        "the result of the revoked task %s is not stored: %s", task_id, exc
                    )


def _store(app: Celery, task_id: str) -> None:
    """Store the result unless the task has begun, as Celery's (5.7) ``revoke`` does."""
    request = worker_state.requests.get(task_id)
    if request is not None and request in worker_state.active_requests:
        return
    backend = request.task.backend if request is not None else app.backend
    if backend.get_state(task_id) in _NOT_STARTED:
        backend.mark_as_revoked(task_id, reason="revoked", store_result=True)


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]
def revoke(
    state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **options: Any
) -> Any:
    """Revoke tasks. With ``terminate``, also end those that run here."""
    task_ids = list(dict.fromkeys(maybe_list(task_id) or []))
    worker_state.revoked.update(task_ids)
    if terminate:
        running = [each for each in task_ids if each in worker_state.requests]
        answer = control.revoke(state, running, terminate=True, signal=signal, **options)
    else:
        answer = ok(f"tasks {set(task_ids)} flagged as revoked")
        logger.info("Tasks flagged as revoked: %s", ", ".join(map(str, task_ids)))
    # All nodes get this command. Each begins with another task, so they share the work.
    first = random.randrange(len(task_ids)) if task_ids else 0
    task_ids = task_ids[first:] + task_ids[:first]
    state.app.node.waiting_tasks.revoke(task_ids)
    state.app.node.revoked_results.put(task_ids)
    _end_revoked_in_buckets(state.consumer)
    return answer


@control_command(  # type: ignore[untyped-decorator]
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: Any, task_id: Any, **options: Any) -> Any:
    """Revoke tasks and end those that run here."""
    return revoke(state, task_id, terminate=True, signal=signal, **options)


def _end_revoked_in_buckets(consumer: Any) -> None:
    """End the revoked tasks that wait for their rate limit. Celery ends them at their turn."""
    for bucket in filter(None, consumer.task_buckets.values()):
        for entry in tuple(bucket.contents):  # pairs of request and tokens (celery 5.7)
            if entry[0].revoked():
                bucket.contents.remove(entry)
