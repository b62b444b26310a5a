"""Spans, where OpenTelemetry is installed (``pip install 'celery-minsched[tracing]'``).

``minsched dispatch`` is a child of the caller's span and the parent of Celery's producer span
(opentelemetry-instrumentation-celery), of which the consumer span is a child in turn: the one trace
shows who called, where the job went and why, how long it waited, and how it ran. Without
OpenTelemetry nothing is imported and nothing is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from celery import signals

from ..core.models import DispatchRequest, DispatchResponse
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


class DispatchSpan:
    """The span of one dispatch."""

    def __init__(self, task: str, request: DispatchRequest) -> None:
        self._span = trace.get_tracer("celery_minsched").start_span(
            SPAN, attributes=_asked(task, request)
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Within it Celery makes the message."""
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def placed(self, place: DispatchResponse) -> None:
        """It ends. Of a job that waits it has no node: the consumer's span has that, and how long
        it waited.
        """
        for field, name in _PLACE.items():
            if value := getattr(place, field):
                self._span.set_attribute(name, value)
        self._span.end()

    def failed(self, error: BaseException) -> None:
        """It ends: nothing was dispatched, or it is not known whether it was."""
        if self._span.is_recording():
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
            self._span.end()


class NoSpan:
    """Nobody traces."""

    current = staticmethod(nullcontext)

    def placed(self, place: DispatchResponse) -> None: ...

    def failed(self, error: BaseException) -> None: ...


_NO_SPAN = NoSpan()


def dispatching(task: str, request: DispatchRequest) -> DispatchSpan | NoSpan:
    """The span of a dispatch that begins."""
    return _NO_SPAN if trace is None else DispatchSpan(task, request)


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
