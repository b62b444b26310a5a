"""Dispatches a task's finished message, and sends it in the same step.

``Celery(amqp=...)`` accepts an AMQP class of the application. Its ``send_task_message`` gets the
task's id and eta, sends the publish signals, and lets kombu make the message. kombu would push that
message to a list of Redis. Instead, the dispatch script pushes it to the queue of the node that it
chooses, or to the job's own list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from celery.app.amqp import AMQP
from kombu import Connection, Queue
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time
from kombu.utils.objects import cached_property
from redis.exceptions import RedisError

from ..core.errors import InvalidDemand
from ..core.keys import queue_name
from ..core.paging import MOST_ITEMS
from .batch_call import BatchCall
from .connection import limit, place_of, places_of
from .dispatch_job import Job, failing, new_job, record_outcomes, update_request
from .header import HEADER, TO_BE_DISPATCHED
from .message_capture import captured, without_priority
from .messages import split_at
from .router import MinSchedRouter
from .runtime import Runtime, runtime_of

logger = logging.getLogger(__name__)

#: Jobs that are dispatched in one round trip, while the next ones are made.
BATCH = MOST_ITEMS

#: The jobs of :meth:`SchedulingAMQP.buffer_jobs` in this thread, ``None`` outside of it.
_buffer: ContextVar[list[Job] | None] = ContextVar("minsched_buffer", default=None)


class SchedulingAMQP(AMQP):
    """Celery's AMQP, with the scheduler's router first and its dispatch in place of the publish."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        _ = self._runtime.settings  # raises for a wrong setting before anything is sent

    def Connection(self, *args: Any, **kwargs: Any) -> Connection:
        """Every connection of the application to its broker."""
        return limit(Connection(*args, **kwargs))

    def Router(self, *args: Any, **kwargs: Any) -> Any:
        others, router = super().Router(*args, **kwargs), super().Router(*args, **kwargs)
        router.routes = [MinSchedRouter(self._runtime, others), *router.routes]
        return router

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        publish = super().send_task_message

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if getattr(options.get("queue"), "name", None) != TO_BE_DISPATCHED.name:
                return publish(producer, name, message, **options)
            self._check_broker(producer.connection)
            job = new_job(self._runtime, name, message, options)
            options["headers"] = {**options["headers"], HEADER: job.header}
            options["declare"] = []
            publish_job = partial(publish, producer, name, message)
            try:
                with job.span.current():
                    if self._runtime.supports_waiting:
                        return self._send(job, producer, publish_job, options)
                    return self._send_by_broker(job, producer, publish_job, options)
            except BaseException as exc:
                job.span.failed(exc)
                raise

        return send_task_message

    @contextmanager
    def buffer_jobs(self) -> Iterator[list[Job]]:
        """Context manager: collects the jobs of this thread in a list instead of dispatching."""
        jobs: list[Job] = []
        token = _buffer.set(jobs)
        try:
            yield jobs
        finally:
            _buffer.reset(token)

    @contextmanager
    def send_batches(self) -> Iterator[Callable[[Sequence[Job]], None]]:
        """Context manager: a function that dispatches a batch of jobs from a buffer.

        Redis works on a batch while the caller makes the next one. The next call, or the end of the
        context, raises the error of the first task that could not be sent. The tasks before it have
        been sent, and those after it have not.
        """
        in_flight: list[BatchCall] = []  # of the last batch: none, or one

        def send(jobs: Sequence[Job]) -> None:
            with failing(jobs):
                call = BatchCall(self._runtime, jobs, partial(self._dispatch, jobs, {}))
                if in_flight:
                    in_flight.pop().settle()
                call.begin()
                in_flight.append(call)

        try:
            yield send
        finally:
            if in_flight:
                in_flight.pop().settle()

    @cached_property
    def _runtime(self) -> Runtime:
        return runtime_of(self.app)

    @cached_property
    def _publish_retries(self) -> tuple[bool, Mapping[str, Any]]:
        """The settings of a publish's retries. Celery also reads them once."""
        return self.app.conf.task_publish_retry, self.app.conf.task_publish_retry_policy

    @cached_property
    def _brokers(self) -> set[Any]:
        """The brokers to which the application writes, and from which it reads."""
        connections = (self.app.connection_for_write(), self.app.connection_for_read())
        return {place for connection in connections for place in places_of(connection)}

    def _check_broker(self, connection: Any) -> None:
        """Raise :class:`InvalidDemand` if the caller's connection leads to another broker."""
        if connection is not None and place_of(connection) not in self._brokers:
            raise InvalidDemand(
                message=f"connection or producer: {connection.as_uri()} is not the application's "
                f"broker, {self.app.connection_for_write().as_uri()}. The scheduler sends a task "
                "with a demand only by the application's broker. Leave out connection= and "
                "producer=."
            )

    def _send(
        self, job: Job, producer: Any, publish: Callable[..., Any], options: dict[str, Any]
    ) -> Any:
        """Let Celery and kombu make the message, and dispatch and send it in one step.

        So a job exists exactly if its message is in Redis.
        """

        def take(message: dict[str, Any], text: str) -> None:
            job.message = split_at(text, job.own.token)
            update_request(job, message)
            buffer = _buffer.get()
            if buffer is None:
                self._dispatch([job], options)
            else:
                buffer.append(job)

        with captured(producer, take):
            return publish(**options)

    def _send_by_broker(
        self, job: Job, producer: Any, publish: Callable[..., Any], options: dict[str, Any]
    ) -> Any:
        """Take a slot, and let Celery send the message to the node's queue at the broker."""
        self._dispatch([job], options)
        node = Queue(queue_name(job.header["node_id"]), no_declare=True)
        try:
            with without_priority(producer, node.name):
                return publish(**options | {"queue": node})
        except BaseException:
            self._release(job.header["job_id"])
            raise

    def _dispatch(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> None:
        """Dispatch in one step, with the retries of a publish.

        Raises the :class:`SchedulerError` of the first job that is refused, or kombu's
        ``OperationalError``.
        """
        default_retry, default_policy = self._publish_retries
        retry = options.get("retry")
        retry = default_retry if retry is None else retry
        policy = {**default_policy, **(options.get("retry_policy") or {})}
        to_dispatch = [job.to_dispatch for job in jobs]
        try:
            outcomes = retry_over_time(
                lambda: self._runtime.scheduler.dispatch_tasks(to_dispatch),
                (RedisError, OperationalError),
                # None means no limit, for retry_over_time as for Celery's publish.
                max_retries=policy.get("max_retries", 3) if retry else 0,
                interval_start=policy.get("interval_start", 0),
                interval_step=policy.get("interval_step", 0.2),
                interval_max=policy.get("interval_max", 0.2),
            )
        except RedisError as exc:
            raise OperationalError(str(exc)) from exc
        record_outcomes(jobs, outcomes)

    def _release(self, job_id: str) -> None:
        try:
            self._runtime.scheduler.release_job(job_id)
        except RedisError as exc:
            logger.warning(
                "job %s was not sent, and holds a slot until its lease ends: %s", job_id, exc
            )
