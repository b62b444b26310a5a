"""Spans, where OpenTelemetry is installed (``pip install 'celery-minsched[tracing]'``).

``minsched dispatch`` is a child of the caller's span and the parent of Celery's producer span
(opentelemetry-instrumentation-celery), of which the consumer span is a child in turn: the one trace
shows who called, where the job went and why, how long it waited, and how it ran. Without
OpenTelemetry nothing is imported and nothing is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery import signals

from .models import DispatchRequest, DispatchResponse
from .router import HEADER

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

SPAN = "minsched dispatch"
#: Attributes of a job's place, by what the models and the message's header call them. The
#: consumer's span has ``minsched.waited`` too: seconds in line.
_PLACE = {
    "job_id": "minsched.job_id",
    "node_id": "minsched.node",
    "pool": "minsched.pool",
    "chosen_by": "minsched.chosen_by",
}
_NO_SPAN = nullcontext()


def dispatched(
    task: str, request: DispatchRequest, place: DispatchResponse, began: int
) -> AbstractContextManager[object]:
    """The span of a dispatch that ``began`` at ``time.time_ns()``; within it the task is sent.

    Of a job that waits it has no node: the consumer's span has that, and the wait.
    """
    if trace is None:
        return _NO_SPAN
    found = {name: getattr(place, field) for field, name in _PLACE.items()}
    attributes = _asked(task, request) | {name: value for name, value in found.items() if value}
    return trace.get_tracer("celery_minsched").start_as_current_span(
        SPAN, start_time=began, attributes=attributes
    )


def refused(asked: Iterable[tuple[str, DispatchRequest]], error: Exception, began: int) -> None:
    """The spans of dispatches that failed, for no fault of all but one of them."""
    if trace is None:
        return
    for task, request in asked:
        span = trace.get_tracer("celery_minsched").start_span(
            SPAN, start_time=began, attributes=_asked(task, request)
        )
        span.record_exception(error)
        span.set_status(trace.StatusCode.ERROR, str(error))
        span.end()


def now() -> int:
    """When a dispatch begins: ns since the epoch, 0 where nobody wants to know."""
    return time.time_ns() if trace else 0


def _asked(task: str, request: DispatchRequest) -> dict[str, str]:
    return {
        "celery.task_name": task,
        "messaging.message.id": request.task_id,
        "minsched.demand": " ".join([request.where, *(f"+{c}" for c in request.capabilities)]),
    }


def follow_tasks() -> None:
    """In a node: say on the consumer's span where the job is, why there, and how long it waited."""
    if trace is None:
        return
    # The instrumentation opens that span in the one signal and closes it in the other, before or
    # after this is called, as it was set up before or after: the span is there in one of the two.
    signals.task_prerun.connect(_note_place, weak=False, dispatch_uid="minsched-tracing")
    signals.task_postrun.connect(_note_place, weak=False, dispatch_uid="minsched-tracing")


def _note_place(task: Any, **_: Any) -> None:
    place = getattr(task.request, HEADER, None) or {}
    span = trace.get_current_span()
    for field, name in _PLACE.items():
        if place.get(field):
            span.set_attribute(name, place[field])
    if "waited_ms" in place:
        span.set_attribute("minsched.waited", place["waited_ms"] / 1000)
