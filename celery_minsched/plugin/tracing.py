"""Spans for OpenTelemetry, if it is installed (``pip install 'celery-minsched[tracing]'``).

``minsched dispatch`` is a child of the caller's span and the parent of Celery's producer span
(opentelemetry-instrumentation-celery), and that span is the parent of the consumer span. So one
trace shows the caller, the job's node and why it was chosen, the time in line, and the run. Without
OpenTelemetry, this module does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from celery import signals

from ..core.describe import short_demand
from ..core.models import DispatchRequest, DispatchResponse
from .header import HEADER

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment]

SPAN = "minsched dispatch"
#: Attributes of a span, by the names in the models and in the message's header. The consumer's span
#: also has ``minsched.waited``: seconds in line.
_PLACE = {
    "job_id": "minsched.job_id",
    "node_id": "minsched.node",
    "pool": "minsched.pool",
    "chosen_by": "minsched.chosen_by",
}


class DispatchSpan:
    """The span of one dispatch."""

    def __init__(self, task: str, request: DispatchRequest, task_id: str) -> None:
        self._span = trace.get_tracer("celery_minsched").start_span(
            SPAN, attributes=_attributes(task, request, task_id)
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Context manager: the span is the parent of the spans that Celery starts."""
        with trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def placed(self, place: DispatchResponse) -> None:
        """End the span. If the job waits, only the consumer's span will have its node."""
        for field, name in _PLACE.items():
            if value := getattr(place, field):
                self._span.set_attribute(name, value)
        self._span.end()

    def failed(self, error: BaseException) -> None:
        """End the span with an error: the job was not dispatched, or the outcome is unknown."""
        if self._span.is_recording():
            self._span.record_exception(error)
            self._span.set_status(trace.StatusCode.ERROR, str(error))
            self._span.end()


class NoSpan:
    """Takes the place of a span if OpenTelemetry is not installed or not set up."""

    current = staticmethod(nullcontext)

    def placed(self, place: DispatchResponse) -> None: ...

    def failed(self, error: BaseException) -> None: ...


_NO_SPAN = NoSpan()


def dispatching(task: str, request: DispatchRequest, task_id: str) -> DispatchSpan | NoSpan:
    """Start the span of a dispatch."""
    # If the application sets no provider, OpenTelemetry's own spans do nothing.
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return _NO_SPAN
    return DispatchSpan(task, request, task_id)


def _attributes(task: str, request: DispatchRequest, task_id: str) -> dict[str, str]:
    return {
        "celery.task_name": task,
        "messaging.message.id": task_id,
        "minsched.demand": short_demand(request.pool_selector, request.capabilities),
    }


def follow_tasks() -> None:
    """In a node: add the job's node, why it was chosen, and its wait to the consumer's span."""
    if trace is None:
        return
    # The instrumentation starts the span in the first signal and ends it in the second. It may run
    # before or after this handler, so the span exists in only one of the two signals.
    signals.task_prerun.connect(_add_place, weak=False, dispatch_uid="minsched-tracing")
    signals.task_postrun.connect(_add_place, weak=False, dispatch_uid="minsched-tracing")


def _add_place(task: Any, **_: Any) -> None:
    place = getattr(task.request, HEADER, None) or {}
    span = trace.get_current_span()
    for field, name in _PLACE.items():
        if place.get(field):
            span.set_attribute(name, place[field])
    if "waited_ms" in place:
        span.set_attribute("minsched.waited", place["waited_ms"] / 1000)
