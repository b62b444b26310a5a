"""Dispatches a task where Celery has its message in hand, and sends it in the same step.

``Celery(amqp=...)`` is Celery's place for an AMQP class of one's own. Its ``send_task_message`` has
the task's id and eta, runs the publish signals, and has kombu make the message. What kombu would
push to a list of Redis goes into the dispatch script instead, which pushes it to the list of the
node that it chooses, or to the job's own.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP
from kombu import Connection, Queue
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time
from kombu.utils.objects import cached_property
from pydantic import ValidationError
from redis.exceptions import RedisError

from ..core import demand
from ..core.errors import InvalidDemand, SchedulerError
from ..core.keys import queue_name
from ..core.models import DispatchRequest, DispatchResponse
from ..core.paging import MOST_ITEMS
from . import tracing
from .connection import limit, place_of, places_of
from .messages import split_at, terms_of
from .router import HEADER, TO_BE_DISPATCHED, MinSchedRouter

if TYPE_CHECKING:
    from .plugin import MinSched

logger = logging.getLogger(__name__)

#: Jobs that are dispatched in one round trip, while the next ones are made.
BATCH = MOST_ITEMS


@dataclass
class Job:
    """A job to be dispatched, and its message as soon as that is made."""

    request: DispatchRequest
    header: dict[str, Any]  # the scheduler's in the message
    span: tracing.DispatchSpan | tracing.NoSpan
    message: tuple[str, str] = ("", "")  # what is before and after the job's id in it

    @property
    def asked(self) -> tuple[DispatchRequest, tuple[str, str]]:
        """As the scheduler takes it."""
        return self.request, self.message


#: The jobs that :meth:`SchedulingAMQP.hold_back` holds back in this thread, if it does.
_held_back: ContextVar[list[Job] | None] = ContextVar("minsched_held_back", default=None)


class SchedulingAMQP(AMQP):
    """Celery's AMQP, with the scheduler's router first and its dispatch in place of the publish."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        _ = self._plugin.settings  # a wrong setting is found here, before anything is sent

    def Connection(self, *args: Any, **kwargs: Any) -> Connection:
        """Every connection of the application to its broker."""
        return limit(Connection(*args, **kwargs))

    def Router(self, *args: Any, **kwargs: Any) -> Any:
        others, router = super().Router(*args, **kwargs), super().Router(*args, **kwargs)
        router.routes = [MinSchedRouter(self._plugin, others), *router.routes]
        return router

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        publish = super().send_task_message

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if getattr(options.get("queue"), "name", None) != TO_BE_DISPATCHED.name:
                return publish(producer, name, message, **options)
            self._check_broker(producer.connection)
            job = self._job(name, message, options)
            options["headers"] = {**options["headers"], HEADER: job.header}
            options["declare"] = []
            publish_it = partial(publish, producer, name, message)
            try:
                with job.span.current():
                    if self._plugin.can_park:
                        return self._send(job, producer, publish_it, options)
                    return self._send_by_broker(job, producer, publish_it, options)
            except BaseException as exc:
                job.span.failed(exc)
                raise

        return send_task_message

    @contextmanager
    def hold_back(self) -> Iterator[list[Job]]:
        """Hold back what is sent within, in this thread."""
        jobs: list[Job] = []
        token = _held_back.set(jobs)
        try:
            yield jobs
        finally:
            _held_back.reset(token)

    @contextmanager
    def send_batches(self) -> Iterator[Callable[[Sequence[Job]], None]]:
        """Within it a function that dispatches a batch of what was held back. Redis has it in hand
        while the caller makes the next one.

        Raises, from the next call or at the end, what ``apply_async`` does for the first task that
        could not be sent; those before it have been sent, those after it have not.
        """
        in_hand: list[Callable[[], None]] = []  # of the last batch; none, or one

        def send(jobs: Sequence[Job]) -> None:
            with failing(jobs):
                if in_hand:
                    in_hand.pop()()
                in_hand.append(self._begin(jobs))

        try:
            yield send
        finally:
            if in_hand:
                in_hand.pop()()

    @property
    def _plugin(self) -> MinSched:
        from .plugin import plugin_of

        return plugin_of(self.app)

    @cached_property
    def _brokers(self) -> set[Any]:
        """The brokers to which the application writes, and from which it reads."""
        ours = (self.app.connection_for_write(), self.app.connection_for_read())
        return {place for connection in ours for place in places_of(connection)}

    def _check_broker(self, connection: Any) -> None:
        """Raise :class:`InvalidDemand` for a connection of the caller's to another broker."""
        if connection is not None and place_of(connection) not in self._brokers:
            raise InvalidDemand(
                message=f"connection or producer: {connection.as_uri()} is not the broker of the "
                f"application, {self.app.connection_for_write().as_uri()}, and a task with a "
                "demand goes to a node over that one. Leave out connection= and producer=."
            )

    def _job(self, name: str, message: Any, options: Mapping[str, Any]) -> Job:
        """The message's job, as far as it is known. Raises :class:`InvalidDemand`."""
        stated = options["headers"][HEADER]["demand"]
        token = uuid.uuid4().hex
        terms = terms_of({"headers": message.headers})
        if not self._plugin.can_park:  # the node's worker keeps it until it is due, in its slot
            terms["due_ts"] = 0
        try:
            request = demand.parse(stated).request(
                default_when_full=self._plugin.settings.when_full,
                task_name=name,
                token=token,
                **terms,
            )
        except ValidationError as exc:
            raise InvalidDemand(message=demand.sentence_of(exc)) from None
        # The token stands for the job's id, which is not known yet.
        header = {"demand": stated, "job_id": token}
        return Job(request, header, tracing.dispatching(name, request))

    def _send(
        self, job: Job, producer: Any, publish: Callable[..., Any], options: dict[str, Any]
    ) -> Any:
        """Have Celery and kombu make the message, and dispatch and send it in one step.

        So there is a job exactly if its message lies in Redis, and no slot that frees meanwhile
        goes unseen.
        """

        def take(message: dict[str, Any], text: str) -> None:
            job.message = split_at(text, job.request.token)
            job.request = _finished(job.request, message)
            held_back = _held_back.get()
            if held_back is None:
                self._dispatch([job], options)
            else:
                held_back.append(job)

        with _batch_of(producer, lambda batch: _Taker(take, batch)):
            return publish(**options)

    def _send_by_broker(
        self, job: Job, producer: Any, publish: Callable[..., Any], options: dict[str, Any]
    ) -> Any:
        """Take a slot, and have Celery send the message to the node's queue at the broker.

        The priority goes in the header: a node's queue is one list, and kombu has one for each.
        """
        self._dispatch([job], options)
        node = Queue(queue_name(job.header["node_id"]), no_declare=True)
        try:
            with _batch_of(producer, lambda batch: _Unprioritized(node.name, batch)):
                return publish(**options | {"queue": node})
        except BaseException:
            self._release(job.header["job_id"])
            raise

    def _begin(self, jobs: Sequence[Job]) -> Callable[[], None]:
        """Have Redis dispatch jobs; the function returned sees to it that it does, and where to.
        If they are more than one call takes, it sends the rest.

        What goes wrong on the way is asked again: Redis answers the same call alike.
        """
        answer = None
        with suppress(RedisError, OperationalError):
            answer = self._plugin.scheduler.begin_dispatch([job.asked for job in jobs])

        def settle() -> None:
            outcomes = None
            with failing(jobs):
                if answer is not None:
                    with suppress(RedisError):
                        outcomes = answer()
                if outcomes is None:
                    self._dispatch(jobs, {})
                else:
                    _note_all(jobs, outcomes)

        return settle

    def _dispatch(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> None:
        """Dispatch in one step, trying again as a publish would.

        Raises the :class:`SchedulerError` of the first that is refused, or kombu's
        ``OperationalError``.
        """
        conf = self.app.conf
        retry = options.get("retry")
        retry = conf.task_publish_retry if retry is None else retry
        policy = {**conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}
        asked = [job.asked for job in jobs]
        try:
            outcomes = retry_over_time(
                lambda: self._plugin.scheduler.dispatch_tasks(asked),
                (RedisError, OperationalError),
                # None means for ever, to retry_over_time as to Celery's publish.
                max_retries=policy.get("max_retries", 3) if retry else 0,
                interval_start=policy.get("interval_start", 0),
                interval_step=policy.get("interval_step", 0.2),
                interval_max=policy.get("interval_max", 0.2),
            )
        except RedisError as exc:
            raise OperationalError(str(exc)) from exc
        _note_all(jobs, outcomes)

    def _release(self, job_id: str) -> None:
        try:
            self._plugin.scheduler.release_job(job_id)
        except RedisError as exc:  # the lease runs out by itself
            logger.warning("job %s was not sent, and holds a slot till it lapses: %s", job_id, exc)


def _finished(request: DispatchRequest, message: dict[str, Any]) -> DispatchRequest:
    """The request, with what a handler of ``before_task_publish`` has changed in the message."""
    terms = terms_of(message)
    if all(getattr(request, name) == value for name, value in terms.items()):
        return request
    try:
        return DispatchRequest(**request.model_dump() | terms)
    except ValidationError as exc:
        raise InvalidDemand(message=demand.sentence_of(exc)) from None


class _Batch:
    """Stands where kombu (5.7) has the batch of a producer, and so is given each finished message
    for one queue.

    Celery sends the task's event by the same producer: that goes on its way.
    """

    def __init__(self, queue: str, batch: Any) -> None:
        self._queue = queue
        self._batch = batch

    def publish(self, channel: Any, message: Any, **options: Any) -> Any:
        if options["routing_key"] == self._queue and not options["exchange"]:
            return self._publish(channel, message, options)
        return self._publish_by_kombu(channel, message, options)

    def _publish(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _publish_by_kombu(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        if self._batch is not None:
            return self._batch.publish(channel, message, **options)
        return channel.basic_publish(message, **options)


class _Taker(_Batch):
    """Passes the message to be dispatched, and its text, to ``take`` instead of sending it."""

    def __init__(self, take: Callable[[dict[str, Any], str], None], batch: Any) -> None:
        super().__init__(TO_BE_DISPATCHED.name, batch)
        self._take = take
        self._message: dict[str, Any] = {}

    def _publish(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        self._message = message
        return channel.basic_publish(message, _publish_batch=self, **options)

    def add(self, _command: str, _key: str, text: str) -> None:
        """The command by which kombu would send the message."""
        self._take(self._message, text)


class _Unprioritized(_Batch):
    """Sends the message with its priority in the scheduler's header."""

    def _publish(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        if isinstance(message, dict):  # of a transport that kombu itself implements
            properties = message["properties"]
            message["headers"][HEADER].setdefault("priority", properties["priority"])
            properties["priority"] = 0
        return self._publish_by_kombu(channel, message, options)


@contextmanager
def _batch_of(producer: Any, make: Callable[[Any], _Batch]) -> Iterator[None]:
    """Context manager: has the producer publish to what ``make`` makes of its batch."""
    batch = getattr(producer._batch_local, "current", None)
    producer._batch_local.current = make(batch)
    try:
        yield
    finally:
        producer._batch_local.current = batch


@contextmanager
def failing(jobs: Sequence[Job]) -> Iterator[None]:
    """What is raised within, has failed them."""
    try:
        yield
    except BaseException as exc:
        for job in jobs:
            job.span.failed(exc)  # but of those that were sent, which have ended
        raise


def _note_all(jobs: Sequence[Job], outcomes: Sequence[DispatchResponse | SchedulerError]) -> None:
    """Say where they went. Raises the error of the first that is refused."""
    for job, outcome in zip(jobs, outcomes, strict=False):
        if isinstance(outcome, SchedulerError):
            raise outcome
        _note(job, outcome)


def _note(job: Job, place: DispatchResponse) -> None:
    """Say where the job went."""
    job.header |= {"job_id": place.job_id, "node_id": place.node_id, "pool": place.pool}
    job.span.placed(place)
    request = job.request
    if place.chosen_by == "impossible":
        demand = " ".join((request.where, *request.capabilities))
        _warn_of_impossible(demand, int(monotonic() // 60))
    if logger.isEnabledFor(logging.DEBUG):
        where = f"at node {place.node_id}" if place.node_id else "and waits"
        logger.debug(
            "task %s is job %s, %s (%s)",
            *(request.task_id, place.job_id, where, place.chosen_by),
            extra=place.model_dump() | {"task_id": request.task_id},
        )


@lru_cache(maxsize=64)
def _warn_of_impossible(demand: str, minute: int) -> None:
    """Once a minute, however many tasks: a deploy may start the applications before the nodes."""
    logger.warning("tasks wait: no registered node can do %s", demand)
