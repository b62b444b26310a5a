"""A job that the application dispatches: its request, its header, its span and its message."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from secrets import token_hex
from time import monotonic
from typing import Any, Literal

from pydantic import ValidationError

from ..core import demand
from ..core.describe import short_demand
from ..core.errors import SchedulerError
from ..core.job_fields import JobToDispatch, MessageParts
from ..core.models import DispatchRequest, DispatchResponse, JobFields
from . import tracing
from .header import HEADER
from .messages import request_fields
from .runtime import Runtime

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A job to be dispatched. Its message is set as soon as kombu has made it."""

    request: DispatchRequest  # of all jobs of the task with the same demand
    own: JobFields
    header: dict[str, Any]  # the scheduler's in the message
    span: tracing.DispatchSpan | tracing.NoSpan
    message: MessageParts = ("", "")

    @property
    def to_dispatch(self) -> JobToDispatch:
        """The job as the scheduler takes it."""
        return self.request, self.message, self.own


def new_job(runtime: Runtime, name: str, message: Any, options: Mapping[str, Any]) -> Job:
    """The job of a task's message that Celery publishes. Raises :class:`InvalidDemand`.

    The job's id is not known yet. A random token takes its place in the message.
    """
    demand_keys = options["headers"][HEADER]["demand"]
    token = token_hex(16)
    fields = request_fields({"headers": message.headers})
    if not runtime.supports_waiting:  # the node's worker holds the task in its slot until it is due
        fields["due_ts"] = 0
    try:
        request = _common_request(demand_keys, runtime.settings.when_full, name)
        own = JobFields(token=token, **fields)
    except ValidationError as exc:
        raise demand.invalid_demand(exc) from None
    span = tracing.dispatching(name, request, own.task_id)
    return Job(request, own, {"demand": demand_keys, "job_id": token}, span)


def _common_request(
    demand_keys: Mapping[str, Any], when_full: Literal["wait", "error"], task_name: str
) -> DispatchRequest:
    """The request that the jobs of a task with the same demand have in common.

    ``when_full`` is for a demand that has none.
    """
    text = demand.text_of(demand_keys)
    if text is not None:
        return _cached_request(text, when_full, task_name)
    parsed = demand.parse(demand_keys)
    return DispatchRequest.of(parsed, default_when_full=when_full, task_name=task_name)


@lru_cache(maxsize=1024)
def _cached_request(
    demand_text: str, when_full: Literal["wait", "error"], task_name: str
) -> DispatchRequest:
    parsed = demand.parse(json.loads(demand_text))
    return DispatchRequest.of(parsed, default_when_full=when_full, task_name=task_name)


def update_request(job: Job, message: dict[str, Any]) -> None:
    """Update the job: a handler of ``before_task_publish`` may have changed the message."""
    fields = request_fields(message)
    if all(getattr(job.own, name) == value for name, value in fields.items()):
        return
    try:
        job.own = JobFields(token=job.own.token, **fields)
    except ValidationError as exc:
        raise demand.invalid_demand(exc) from None


@contextmanager
def failing(jobs: Sequence[Job]) -> Iterator[None]:
    """Context manager: an exception ends the spans of the jobs. Spans of sent jobs have ended."""
    try:
        yield
    except BaseException as exc:
        for job in jobs:
            job.span.failed(exc)
        raise


def record_outcomes(
    jobs: Sequence[Job], outcomes: Sequence[DispatchResponse | SchedulerError]
) -> None:
    """Record where the jobs went. Raises the error of the first that is refused."""
    for job, outcome in zip(jobs, outcomes, strict=False):
        if isinstance(outcome, SchedulerError):
            raise outcome
        _record_place(job, outcome)


def _record_place(job: Job, place: DispatchResponse) -> None:
    job.header |= {"job_id": place.job_id, "node_id": place.node_id, "pool": place.pool}
    job.span.placed(place)
    request = job.request
    if place.chosen_by == "impossible":
        text = short_demand(request.pool_selector, request.capabilities)
        _warn_of_impossible(text, int(monotonic() // 60))
    if logger.isEnabledFor(logging.DEBUG):
        where = f"at node {place.node_id}" if place.node_id else "and waits"
        logger.debug(
            "task %s is job %s, %s (%s)",
            *(job.own.task_id, place.job_id, where, place.chosen_by),
            extra=place.model_dump() | {"task_id": job.own.task_id},
        )


@lru_cache(maxsize=64)
def _warn_of_impossible(demand: str, minute: int) -> None:
    """Log once a minute for each demand: a deploy may start the applications before the nodes."""
    logger.warning("tasks wait, and no registered node can run them: %s", demand)
