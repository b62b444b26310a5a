"""Dispatches a task where Celery has its message in hand, and publishes it to the node's queue.

``Celery(amqp=...)`` is Celery's place for an AMQP class of one's own. Its ``send_task_message``
has the finished message (id, eta), decides the destination, and sees a publish fail.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Queue
from kombu.exceptions import BatchPublishError, OperationalError
from kombu.utils.functional import retry_over_time
from kombu.utils.objects import cached_property
from redis.exceptions import RedisError

from . import demand, tracing
from .keys import job_queue_name, queue_name
from .models import DispatchRequest, DispatchResponse
from .router import HEADER, TO_BE_DISPATCHED, MinSchedRouter

if TYPE_CHECKING:
    from .plugin import MinSched

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outgoing:
    """A message that Celery has finished, and the demand of its job."""

    name: str
    message: Any
    options: dict[str, Any]
    request: DispatchRequest


#: The messages that :meth:`SchedulingAMQP.collect` holds back in this thread, if it does.
_collected: ContextVar[list[_Outgoing] | None] = ContextVar("minsched_collected", default=None)


class SchedulingAMQP(AMQP):
    """Celery's AMQP, with the scheduler's router first and its dispatch before the publish."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        _ = self._plugin.settings  # a wrong setting is found here, before anything is sent

    def Router(self, *args: Any, **kwargs: Any) -> Any:
        router = super().Router(*args, **kwargs)
        router.routes = [MinSchedRouter(self._plugin), *router.routes]
        return router

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        send = super().send_task_message

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if getattr(options.get("queue"), "name", None) != TO_BE_DISPATCHED.name:
                return send(producer, name, message, **options)
            job = _Outgoing(name, message, options, self._request(name, message, options))
            collected = _collected.get()
            if collected is None:
                return self._send(producer, [job])
            collected.append(job)
            return None

        self._publish = send
        return send_task_message

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Hold back what is sent within, and send it at the end: three round trips for it all."""
        token = _collected.set([])
        try:
            yield
            jobs = _collected.get() or []
        finally:
            _collected.reset(token)
        if jobs:
            with self.app.producer_or_acquire() as producer, producer.batch():
                self._send(producer, jobs)

    @property
    def _plugin(self) -> MinSched:
        from .plugin import plugin_of

        return plugin_of(self.app)

    def _request(self, name: str, message: Any, options: Mapping[str, Any]) -> DispatchRequest:
        """The demand of the message's job. Raises :class:`InvalidDemand`."""
        asked = demand.parse(options["headers"][HEADER]["demand"])
        headers = message.headers
        return asked.request(
            default_when_full=self._plugin.settings.when_full,
            task_id=headers["id"],
            task_name=name,
            token=uuid.uuid4().hex,
            # Where none can be parked the node's worker keeps it until it is due, in its slot.
            due_ts=self._milliseconds(headers["eta"]) if self._plugin.can_park else 0,
            expires_ts=self._milliseconds(headers["expires"]),
            priority=int(options.get("priority") or 0),
        )

    def _milliseconds(self, when: str | None) -> int:
        """A header's ISO 8601 time, since the epoch; 0 for none."""
        if not when:
            return 0
        return int(maybe_make_aware(maybe_iso8601(when), self.app.timezone).timestamp() * 1000)

    def _send(self, producer: Any, jobs: Sequence[_Outgoing]) -> Any:
        """Dispatch, publish, and place those for which no slot was free.

        A job's message lies in its own list before the job is placed: looking for a slot and
        joining the line are then one atomic step, and no slot that frees meanwhile goes unseen. A
        delayed job may have fallen due while its message was on its way.
        """
        began = tracing.now()
        try:
            placed = self._dispatch([job.request for job in jobs], jobs[0].options)
        except Exception as exc:
            tracing.refused(((job.name, job.request) for job in jobs), exc, began)
            raise
        answer = None
        sent = 0
        try:
            for job, place in zip(jobs, placed, strict=True):
                options = _with_destination(job.options, place)
                with tracing.dispatched(job.name, job.request, place, began):
                    answer = self._publish(producer, job.name, job.message, **options)
                sent += 1
            _flush(producer)
        except BaseException:
            # Of a batch nobody can tell what was sent: what was finds a slot or its place again.
            self._release([place.job_id for place in placed])
            raise
        self._place([place.job_id for place in placed if not place.node_id])
        return answer

    def _dispatch(
        self, requests: Sequence[DispatchRequest], options: Mapping[str, Any]
    ) -> list[DispatchResponse]:
        """Take slots, trying again as the publish itself would.

        Raises the :class:`SchedulerError` of the dispatch, or kombu's ``OperationalError``.
        """
        conf = self.app.conf
        retry = options.get("retry")
        retry = conf.task_publish_retry if retry is None else retry
        policy = {**conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}
        try:
            placed: list[DispatchResponse] = retry_over_time(
                lambda: self._plugin.scheduler.dispatch_tasks(requests),
                (RedisError, OperationalError),
                # None means for ever, to retry_over_time as to Celery's publish.
                max_retries=policy.get("max_retries", 3) if retry else 0,
                interval_start=policy.get("interval_start", 0),
                interval_step=policy.get("interval_step", 0.2),
                interval_max=policy.get("interval_max", 0.2),
            )
        except RedisError as exc:
            raise OperationalError(str(exc)) from exc
        for request, place in zip(requests, placed, strict=True):
            level = logging.WARNING if place.chosen_by == "impossible" else logging.DEBUG
            logger.log(
                level,
                "task %s is job %s, %s",
                *(request.task_id, place.job_id, _in_words(place, request)),
                extra=place.model_dump() | {"task_id": request.task_id},
            )
        return placed

    def _release(self, job_ids: Iterable[str]) -> None:
        try:
            for job_id in job_ids:
                self._plugin.scheduler.release_job(job_id)
        except RedisError as exc:  # the leases run out by themselves
            logger.warning("jobs were not sent, and their slots are held till they lapse: %s", exc)

    def _place(self, job_ids: Sequence[str]) -> None:
        if not job_ids:
            return
        try:
            self._plugin.scheduler.place_jobs(job_ids)
        except RedisError as exc:
            logger.warning("jobs were sent; a node's heartbeat will place them: %s", exc)


def _flush(producer: Any) -> None:
    """Send what ``producer.batch()`` holds back (kombu 5.7); nothing outside of a batch.

    Raises kombu's ``OperationalError``. It is not tried again: some of it may have been sent.
    """
    state = getattr(producer._batch_local, "current", None)
    if state is None:
        return
    try:
        state.flush()
    except BatchPublishError as exc:
        raise OperationalError(f"{exc}: {exc.__cause__}") from exc


def _in_words(place: DispatchResponse, request: DispatchRequest) -> str:
    if place.node_id:
        return f"at node {place.node_id} ({place.chosen_by})"
    if place.chosen_by == "impossible":
        return f"and waits: no registered node can do {request.where} {request.capabilities or ''}"
    return f"and waits ({place.chosen_by})"


def _with_destination(options: Mapping[str, Any], place: DispatchResponse) -> dict[str, Any]:
    """Publish options for the list where the message belongs, which is neither declared nor
    remembered here (a Queue with ``no_declare``).

    The priority of one that has its slot goes in the header: a node's queue is one list, and
    kombu has a list for each priority.
    """
    name = queue_name(place.node_id) if place.node_id else job_queue_name(place.job_id)
    header = {
        **options["headers"][HEADER],
        "job_id": place.job_id,
        "node_id": place.node_id,
        "pool": place.pool,
    }
    if options.get("priority") is not None:
        header["priority"] = options["priority"]
    return {
        **options,
        "priority": None if place.node_id else options.get("priority"),
        "queue": _node_list(name) if place.node_id else Queue(name, no_declare=True),
        "declare": [],
        "headers": {**options["headers"], HEADER: header},
    }


@lru_cache(maxsize=256)
def _node_list(name: str) -> Queue:
    """Many messages go to the list of one node, and to make its Queue is some 30 µs."""
    return Queue(name, no_declare=True)
