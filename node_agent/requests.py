"""Frees the slot of a job at every ending of its request.

``celery.worker.request.Request`` in the main process sees every ending of a task that a pool ran.
The message signals (:mod:`node_agent.worker`) and the consumer (:mod:`node_agent.consumer`) see the
other endings. This was observed with celery 5.7.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.app.task import Task
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import Ignore, Retry, TaskRevokedError
from celery.worker.request import Request

from celery_minsched.plugin.header import HEADER
from celery_minsched.plugin.messages import job_id_of


def claim_of(headers: Any) -> str:
    """The claim by which the node gave the message of a job to its worker."""
    return str(headers[HEADER].get("claim", "")) if job_id_of(headers) else ""


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@cache
def with_slot(base: type[Request]) -> type[Request]:
    """A task's request class that also frees the slot when the request ends."""
    return (
        base
        if issubclass(base, SlotRequest)
        else type("Slot" + base.__name__, (SlotRequest, base), {})
    )


class SlotRequest(Request):
    """A request whose job ends with it."""

    _ended = False
    _requeued = False
    _is_in_pool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Wrap the two methods that ``create_request_cls`` redefines in a derived class without a
        call to the inherited ones.
        """
        super().__init_subclass__(**kwargs)
        if "on_success" in cls.__dict__:
            cls.on_success = _ending(cls.on_success)
        if "execute_using_pool" in cls.__dict__:
            cls.execute_using_pool = _beginning(cls.execute_using_pool)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        if not _is_main_thread() and not self._may_begin(in_thread=True):
            raise TaskRevokedError(self.id)  # then the thread does not run the task
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        if self._already_cancelled:
            return super().on_failure(exc_info, *args, **kwargs)
        self._mark_ending()
        try:
            return super().on_failure(exc_info, *args, **kwargs)
        finally:
            self._report_end(*_outcome(exc_info.exception))

    def acknowledge(self) -> None:
        """End a request that never reaches the pool by itself: the strategy of its task runs
        several requests together (celery-batches).
        """
        if self._is_in_pool or self.task.Strategy == Task.Strategy:
            super().acknowledge()
            return
        self._mark_ending()
        super().acknowledge()
        self._report_end("finished")

    def cancel(self, *args: Any, **kwargs: Any) -> None:
        """Killed by a cold shutdown or with its connection, see node_agent/requeue.py."""
        super().cancel(*args, **kwargs)
        self.app.node.slots.mark_cancelled(job_id_of(self.request_dict))

    def reject(self, requeue: bool = False) -> None:
        if requeue and not self.acknowledged:
            self._requeued = True  # its message returns, and its job is placed again
        never_ran = self.time_start is None
        super().reject(requeue)
        if never_ran:  # celery rejects an invalid eta and sends no signal
            self._report_end("failed", "rejected")

    def _on_thread_end(self, future: Future[Any]) -> None:
        """Report an exception that celery 5.7 leaves in a thread's future and does not read: an
        error of its own code, such as a missing result backend.
        """
        exc = None if future.cancelled() else future.exception()
        if exc is None or isinstance(exc, TaskRevokedError):  # on_accepted: it did not begin
            return
        if job_id_of(self.request_dict) and not self._ended:
            self.on_failure(ExceptionInfo((type(exc), exc, exc.__traceback__)))

    def _may_begin(self, in_thread: bool = False) -> bool:
        job_id, claim = job_id_of(self.request_dict), claim_of(self.request_dict)
        node = self.app.node
        if not job_id:
            return True
        slots = node.slots
        while not (may_begin := slots.begin(job_id, claim)):
            if not in_thread or not slots.must_await_term(job_id):
                break
            slots.await_term()
        if may_begin and self._is_noted(job_id):
            return True
        if not slots.closing:
            slots.in_loop(partial(node.consumer.claim_again, self))
        return False

    def _is_noted(self, job_id: str) -> bool:
        """If the task is acknowledged before it ends, does Redis have the note?"""
        if self.task.acks_late or not self.app.minsched.is_on_broker:
            return True
        return bool(self.app.node.slots.acknowledge(job_id))

    def _mark_ending(self) -> None:
        self.app.node.slots.mark_ending(job_id_of(self.request_dict))

    def _report_end(self, status: str, reason: str = "") -> None:
        job_id = job_id_of(self.request_dict)
        if not job_id or self._ended:
            return
        self._ended = True
        if self._requeued:
            self.app.node.slots.requeue(job_id)
        else:
            self.app.node.endings.report(job_id, status, reason)


def _beginning(execute_using_pool: Any) -> Any:
    def begin(self: SlotRequest, pool: Any, **kwargs: Any) -> Any:
        # A pool of threads has a queue of its own, so a thread asks when it takes the request.
        if not isinstance(pool, ThreadPool) and not self._may_begin():
            raise TaskRevokedError(self.id)  # then celery's worker frees the process
        self._is_in_pool = True
        result = execute_using_pool(self, pool, **kwargs)
        if isinstance(future := getattr(result, "f", None), Future):
            future.add_done_callback(self._on_thread_end)
        return result

    return begin


def _ending(on_success: Any) -> Any:
    def on_success_and_end(self: SlotRequest, outcome: Any, **kwargs: Any) -> Any:
        self._mark_ending()
        try:
            answer = on_success(self, outcome, **kwargs)
        except BaseException as exc:
            # After sys.exit() in a thread, celery passes an ExceptionInfo instead of a triple.
            self._report_end(*_outcome(getattr(outcome, "exception", exc)))
            raise
        self._report_end("finished")  # if the task failed, on_failure has reported the end already
        return answer

    return on_success_and_end


def _outcome(exception: Any) -> tuple[str, str]:
    """Status and reason. The reason is the exception's class, without its text."""
    if isinstance(exception, ExceptionWithTraceback):
        exception = exception.exc
    if isinstance(exception, Ignore):
        return "finished", "ignored"
    if isinstance(exception, Retry):
        return "failed", "retry"
    return "failed", type(exception).__name__
