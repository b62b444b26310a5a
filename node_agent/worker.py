"""Builds and tunes the Celery worker of a node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

import redis
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu import Exchange, Queue
from kombu.utils.imports import symbol_by_name
from redis.exceptions import ResponseError

from celery_minsched import RegisterNodeRequest
from celery_minsched.core.keys import QUEUES, queue_name
from celery_minsched.plugin import remote, tracing  # noqa: F401 - remote registers its commands
from celery_minsched.plugin.connection import result_options
from celery_minsched.plugin.header import HEADER
from celery_minsched.plugin.messages import job_id_of
from celery_minsched.plugin.plugin import MinSched

from . import revokes  # noqa: F401 - registers its commands
from .children import kept_by_children
from .kombu_fetch import take_by_move
from .log_text import follow_logging
from .node import Node
from .requests import claim_of, with_slot
from .rescue import NodeQoS, park_messages, return_taken, transport_options
from .slots import Slots

logger = logging.getLogger(__name__)

_CONNECT_AGAIN = 2.0  # seconds
_CHECK_FLOW = 0.5  # seconds
_ASK_AGAIN = 0.5  # seconds until the worker tries again what Redis could not do just now
_LOOK_AGAIN = 0.05  # seconds until a job that waits for the node's term is looked at again


class NodeWorker(Worker):
    """Celery's worker, which says at once that it stops, for whatever reason.

    ``worker_shutting_down`` does so for a warm shutdown. For a cold one it comes after all else:
    after the time that a soft shutdown gives, and not at all from a pool of threads, which cannot
    be cancelled. Nor does it where an error ends the worker. (Seen in celery 5.7.)
    """

    def wait_for_soft_shutdown(self) -> None:  # the first act of a cold shutdown
        self.app.node.on_shutting_down()
        super().wait_for_soft_shutdown()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        self.app.node.on_shutting_down()
        super().stop(*args, **kwargs)

    def _process_task(self, request: Any) -> None:
        """Give the request to the pool.

        If the job may not begin, its process goes to the next request. Celery (5.7) gives it there
        in a call within the call: too deep a recursion if hundreds of jobs may not begin. While the
        node does not know its term, the request keeps its process, and jobs begin in order.
        """
        slots = self.app.node.slots
        if self.pool_cls.uses_semaphore and slots.must_wait(job_id_of(request.request_dict)):
            self.timer.call_after(_LOOK_AGAIN, self._process_task, (request,))
            return
        try:
            request.execute_using_pool(self.pool)
        except TaskRevokedError:
            if release := getattr(self, "_quick_release", None):
                slots.in_loop(release)


class NodeConsumer(Consumer):
    """Celery's consumer, which asks whether a job's slot is its own before it runs the job.

    Endings that no request sees (the body does not decode, the task is not known) are seen here.
    """

    _connections = 0
    _dropped: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._books: WeakSet[NodeQoS] = WeakSet()  # of the connections whose tasks still run
        super().__init__(*args, **kwargs)

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        connection = super().connection_for_read(heartbeat)
        if connection.transport.driver_type == "redis":
            # Here, since kombu (5.7) makes a channel's qos as soon as an event loop knows of it.
            channel, node_id = connection.default_channel, self._slots.node_id
            taken = self.app.minsched.scheduler.keys("node_taken", node_id)
            book = {
                "app": self.app,
                "node_id": node_id,
                "acked_key": QUEUES["node_acked"].format(node_id),
                "taken_key": taken,
                "slots": self._slots,
                "claims": self.app.minsched.is_on_broker,
            }
            channel.QoS = type("QoS", (NodeQoS,), book)
            # kombu makes a client for each message, which is a sixth of the loop's time for it.
            channel.notes = channel._create_client()
            take_by_move(channel, queue_name(node_id), taken, self.app.node.liveness.watch)
            self._books.add(channel.qos)
            for earlier in self._books:  # a lost connection's tasks are acknowledged over this one
                earlier.channel = channel
        return connection

    def connect(self) -> Any:
        connection = super().connect()
        if connection.transport.driver_type == "redis" and self._connections:
            self._hand_back_dropped()
        return connection

    def _hand_back_dropped(self) -> None:
        """What was taken over a lost connection, and has not begun, is placed anew."""
        node, parked = self.app.node, set()
        try:
            if node.is_replaced():
                return
            for job_id in park_messages(self.app.minsched, node.node_id, node.slots):
                parked.add(job_id)
            return_taken(self.app.minsched, node.node_id)
            parked |= self._dropped
            self._dropped = frozenset()
        except ResponseError as exc:  # Redis has no memory, or may only be read
            logger.warning("jobs cannot be handed back just now: %s", exc)
            self.timer.call_after(_ASK_AGAIN, self._hand_back_dropped)
            return
        finally:  # also what was parked before the connection broke again
            node.slots.hand_back(parked)
        node.slots.know()

    def ensure_connected(self, conn: Any) -> Any:
        # Celery would wait up to half a minute when Redis is back, and jobs come at once.
        conn.ensure_connection = partial(conn.ensure_connection, interval_max=_CONNECT_AGAIN)
        return super().ensure_connected(conn)

    def register_with_event_loop(self, hub: Any) -> None:
        self._slots.in_loop.register(hub)
        hub.call_repeatedly(_CHECK_FLOW, self._check_flow)
        super().register_with_event_loop(hub)

    def _check_flow(self) -> None:
        liveness = self.app.node.liveness
        if self.connection.transport.driver_type == "redis":
            liveness.check_flow(self.connection.default_channel)
        else:  # what another broker's connection does is that broker's to watch
            liveness.watch.note()

    def cancel_task_queue(self, queue: str) -> None:
        super().cancel_task_queue(queue)
        if queue == queue_name(self._slots.node_id):
            self.app.node.liveness.pause(True)

    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super().add_task_queue(queue, *args, **kwargs)
        if queue == queue_name(self._slots.node_id):
            self.app.node.liveness.pause(False)

    def update_strategies(self) -> None:
        for task in self.app.tasks.values():
            task.Request = with_slot(symbol_by_name(task.Request))
        super().update_strategies()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            job_id = job_id_of(message.headers)
            if not job_id:  # not the scheduler's: a queue that the caller chose
                handle(message)
                return
            hold = self._slots.held.get(job_id)
            if hold is None:
                self._claim(job_id, message, handle)
            elif hold.tag != message.delivery_tag:  # another message of a job that is in hand
                self._drop(message)
            elif hold.answer:  # claimed by NodeQoS.append
                answer, hold.answer = hold.answer, None
                self._on_answer(job_id, message, handle)(*answer)
            elif hold.has_ended:  # the same message again, perhaps after its end was reported
                self.timer.call_after(_ASK_AGAIN, on_task_received, (message,))
            else:
                logger.warning("the message of job %s came again, and the job is in hand", job_id)

        return on_task_received

    def _claim(self, job_id: str, message: Any, begin: Callable[[Any], None]) -> None:
        self._slots.claim(job_id, message.delivery_tag, self._on_answer(job_id, message, begin))

    def _on_answer(
        self, job_id: str, message: Any, begin: Callable[[Any], None]
    ) -> Callable[[str, dict[str, Any]], None]:
        """What is done with the answer to a claim that is made over this connection."""
        connection = self._connections

        def answer(verdict: str, place: dict[str, Any]) -> None:
            logger.debug(
                "job %s came to this node: %s",
                *(job_id, verdict),
                extra={"job_id": job_id, "node_id": self._slots.node_id, "verdict": verdict},
            )
            if self._slots.closing:
                self.app.node.pulse.nudge()  # the message is handed back
                return
            if connection != self._connections:
                return  # the message was put back
            if verdict in ("run", "discard"):
                # One that waited was sent before anybody knew where it would run. A retry goes by
                # delivery_info, and the router knows a node's queue for no choice of the caller's.
                message.headers[HEADER].update(node_id=self._slots.node_id, **place)
                if (priority := message.headers[HEADER].get("priority")) is not None:
                    message.properties["priority"] = priority
                message.delivery_info["routing_key"] = queue_name(self._slots.node_id)
                if verdict == "discard":  # this worker may not have heard of the revocation
                    state.revoked.add(message.headers["id"])
                try:
                    begin(message)
                except (KeyError, TypeError, ValueError) as exc:
                    # celery 5.7 expects a body of three parts, and its worker ends where it is not.
                    self.on_invalid_task(message.body, message, exc)
            elif verdict == "hand_back":
                logger.warning("job %s has no slot at this node any more: handed back", job_id)
                message.reject_log_error(logger, self.connection_errors, requeue=True)
                self._slots.hand_back([job_id])
            elif verdict == "full":
                again = partial(self._slots.claim, job_id, message.delivery_tag, answer)
                self.timer.call_after(_ASK_AGAIN, self._if_held, (job_id, place["claim"], again))
            else:
                logger.warning("job %s has ended or is elsewhere: dropped its message", job_id)
                self._slots.forget(job_id)
                self._drop(message)

        return answer

    def _if_held(self, job_id: str, claim: str, call: Callable[[], None]) -> None:
        if not self._slots.is_given_up(job_id, claim):
            call()

    def claim_again(self, request: Any) -> None:
        """The node may have been taken for dead before the request began: ask whose it is now."""
        job_id = job_id_of(request.request_dict)
        if self._slots.is_given_up(job_id, claim_of(request.request_dict)):
            state.task_ready(request)
            return
        if self._slots.suspended or self._slots.term() is None:  # the node cannot know that yet
            self.timer.call_after(_ASK_AGAIN, self.claim_again, (request,))
            return

        def begin(_: Any) -> None:
            state.task_reserved(request)
            self.on_task_request(request)

        state.task_ready(request)  # the worker has it not, unless it is given it again
        self._claim(job_id, request.message, begin)

    def _drop(self, message: Any) -> None:
        message.ack_log_error(logger, self.connection_errors)

    def on_close(self) -> None:
        with kept_by_children(self.pool, self._slots):
            super().on_close()
        self._connections += 1
        self._dropped |= self._slots.drop()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._lost(message, "undecodable")
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._lost(message, "no task message")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._lost(message, "unregistered")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._lost(message, "invalid")
        super().on_invalid_task(body, message, exc)

    def _lost(self, message: Any, reason: str) -> None:
        if job_id := job_id_of(message.headers):
            self._slots.end(job_id, "failed", reason)

    @property
    def _slots(self) -> Slots:
        slots: Slots = self.app.node.slots
        return slots


def prepare(
    app: Celery, plugin: MinSched, registration: RegisterNodeRequest, pulse_client: redis.Redis
) -> Node:
    """Make the application's worker this node's: its queue, its keys, its consumer."""
    queue = queue_name(registration.node_id)
    on_redis = app.connection_for_read().transport.driver_type == "redis"
    app.conf.update(
        worker_consumer=NodeConsumer,
        # Each message in the queue has a slot here: take them all.
        worker_prefetch_multiplier=0,
        worker_disable_prefetch=False,
        # Redis refuses (it has become a replica, has no memory): connect anew, and do not end.
        broker_channel_error_retry=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(app, registration.node_id),
        **result_options(app),
    )
    # An exchange of its own: the default one would bind the queue to the key of plain tasks.
    # On Redis a queue needs no declaration, and one would leave a _kombu.binding key behind.
    app.amqp.queues.add(Queue(queue, Exchange(queue), routing_key=queue, no_declare=on_redis))
    app.Worker = app.subclass_with_self(NodeWorker)
    node = app.node = Node(plugin, registration, pulse_client)
    signals.worker_ready.connect(_on_ready, weak=False)
    signals.worker_shutting_down.connect(
        lambda **_: node.on_shutting_down(), weak=False, dispatch_uid="minsched-shutting-down"
    )
    signals.task_revoked.connect(_on_revoked, weak=False)
    tracing.follow_tasks()
    follow_logging()
    return node


def _on_ready(sender: Any, **_: Any) -> None:
    sender.app.node.on_ready(sender.controller)


def _on_revoked(sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    """Revoked or expired, and never run. One that is terminated ends with its process, which
    ``Request.on_failure`` sees.
    """
    job_id = job_id_of({HEADER: getattr(request, HEADER, None)})
    if job_id and not terminated:
        sender.app.node.slots.end(job_id, "failed", "expired" if expired else "revoked")
