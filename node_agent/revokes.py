"""Celery's ``revoke`` and ``terminate``, which also find a task that waits for a slot or its time.

Celery's own (5.7) asks the result backend about each task, in the worker's event loop: 10,000 tasks
stop the worker for seconds. Here a thread asks. The courier takes the tasks out of their lines.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from celery import Celery, states
from celery.utils.functional import maybe_list
from celery.worker import control
from celery.worker import state as worker_state
from celery.worker.control import control_command, ok

logger = logging.getLogger(__name__)

_NOT_STARTED = (states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED)


class RevokedResults:
    """Stores that tasks are revoked, in a thread that starts when there is something to store."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._task_ids: SimpleQueue[Sequence[str]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, task_ids: Sequence[str]) -> None:
        """Store the results of these tasks, for the event loop. Does not block."""
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
        here = [each for each in task_ids if each in worker_state.requests]
        answer = control.revoke(state, here, terminate=True, signal=signal, **options)
    else:
        answer = ok(f"tasks {set(task_ids)} flagged as revoked")
        logger.info("Tasks flagged as revoked: %s", ", ".join(map(str, task_ids)))
    # All nodes are asked. Each begins somewhere else, and finds later that others were there.
    first = random.randrange(len(task_ids)) if task_ids else 0
    task_ids = task_ids[first:] + task_ids[:first]
    state.app.node.slots.revoke(task_ids)
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
    """End the revoked tasks that their rate limits hold back. Celery ends them at their turn."""
    for bucket in filter(None, consumer.task_buckets.values()):
        for held in tuple(bucket.contents):  # pairs of request and tokens (celery 5.7)
            if held[0].revoked():
                bucket.contents.remove(held)
