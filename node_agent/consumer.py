"""The Celery consumer of a node: its connection, and the messages that it receives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.utils.imports import symbol_by_name
from redis.exceptions import ResponseError

from celery_minsched.core.keys import queue_name
from celery_minsched.plugin.messages import job_id_of

from .children import keep_started_tasks
from .claimed_message import ClaimedMessage
from .kombu_fetch import NodeQueue, reliable_fetch
from .kombu_unacked import NodeQoS
from .node import Node
from .requests import claim_of, with_slot
from .requeue import park_messages, park_unacked, return_taken

logger = logging.getLogger(__name__)

_LONGEST_CONNECT_PAUSE = 2.0  # seconds
_CHECK_INTERVAL = 0.5  # seconds
_RETRY_PAUSE = 0.5  # seconds until the worker repeats a step that was not possible


class NodeConsumer(Consumer):
    """Celery's consumer. It claims each job before it runs it.

    It also sees the endings that no request sees: the body does not decode, or the task is not
    known.
    """

    #: Counts the connections that were lost.
    connections = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._records: WeakSet[NodeQoS] = WeakSet()  # of the connections whose tasks still run
        super().__init__(*args, **kwargs)

    @property
    def node(self) -> Node:
        node: Node = self.app.node
        return node

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        # Not connection.transport: that would make the transport.
        if connection.get_transport_cls().driver_type != "redis":
            return self.ensure_connected(connection)
        reliable_fetch(connection, self._node_queue())
        connection = self.ensure_connected(connection)
        channel = connection.default_channel
        self._records.add(channel.qos)
        for record in self._records:  # a lost connection's tasks are acknowledged over this one
            record.channel = channel
        if self.app.minsched.is_on_broker:
            self.node.endings.deliver = self._deliver_next
        return connection

    def _node_queue(self) -> NodeQueue:
        node, scheduler = self.node, self.app.minsched.scheduler
        taken_key = scheduler.keys("node_taken", node.node_id)
        return NodeQueue(
            queue_name(node.node_id),
            taken_key,
            partial(
                NodeQoS, app=self.app, slots=node.slots, claims=node.claims, taken_key=taken_key
            ),
            node.liveness.watch,
        )

    def connect(self) -> Any:
        connection = super().connect()
        if connection.transport.driver_type == "redis" and self.connections:
            self._hand_back_dropped()
        return connection

    def _hand_back_dropped(self) -> None:
        """Have the jobs placed again that came over a lost connection and have not begun."""
        node, parked = self.node, set()
        try:
            if node.is_replaced():
                return
            for job_id in park_messages(self.app.minsched, node.node_id, node.slots):
                parked.add(job_id)
            return_taken(self.app.minsched, node.node_id)
            parked |= node.slots.dropped
            node.slots.dropped.clear()
        except ResponseError as exc:  # Redis has no memory, or may only be read
            logger.warning("jobs cannot be handed back now. The node tries again: %s", exc)
            self.timer.call_after(_RETRY_PAUSE, self._hand_back_dropped)
            return
        finally:  # also the jobs that were parked before the connection broke again
            node.slots.hand_back(parked)
        node.slots.mark_synced()

    def ensure_connected(self, conn: Any) -> Any:
        # Celery would wait up to half a minute after Redis is back, and jobs come at once.
        conn.ensure_connection = partial(
            conn.ensure_connection, interval_max=_LONGEST_CONNECT_PAUSE
        )
        return super().ensure_connected(conn)

    def register_with_event_loop(self, hub: Any) -> None:
        self.node.slots.in_loop.register(hub)
        hub.call_repeatedly(_CHECK_INTERVAL, self._check_flow)
        super().register_with_event_loop(hub)

    def _check_flow(self) -> None:
        liveness = self.node.liveness
        if self.connection.transport.driver_type == "redis":
            liveness.check_flow(self.connection.default_channel)
        else:  # another broker's client watches its connection itself
            liveness.watch.note()

    def on_close(self) -> None:
        with keep_started_tasks(self.pool, self.node.slots):
            super().on_close()
        self.connections += 1
        self.node.slots.drop_unstarted()

    def cancel_task_queue(self, queue: str) -> None:
        super().cancel_task_queue(queue)
        self._pause(queue, True)

    def add_task_queue(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super().add_task_queue(queue, *args, **kwargs)
        self._pause(queue, False)

    def _pause(self, queue: str, paused: bool) -> None:
        if queue == queue_name(self.node.node_id):
            self.node.liveness.pause(paused)

    def update_strategies(self) -> None:
        for task in self.app.tasks.values():
            task.Request = with_slot(symbol_by_name(task.Request))
        super().update_strategies()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        handle = super().create_task_handler(*args, **kwargs)
        return partial(self._on_task_received, handle)

    def _on_task_received(self, handle: Callable[[Any], None], message: Any) -> None:
        job_id = job_id_of(message.headers)
        if not job_id:  # a caller chose this queue
            handle(message)
            return
        received = ClaimedMessage(self, job_id, message, handle)
        held = self.node.slots.held.get(job_id)
        if held is None:
            received.claim()
        elif held.tag != message.delivery_tag:  # another message of a job that the node holds
            received.drop()
        elif held.answer:  # NodeQoS.append has claimed the job
            answer, held.answer = held.answer, None
            received.on_answer(*answer)
        elif held.has_ended:  # the same message again, perhaps after its end was reported
            self.timer.call_after(_RETRY_PAUSE, self._on_task_received, (handle, message))
        else:
            logger.warning("the message of job %s came again, and the node holds the job", job_id)

    def _deliver_next(self, job_id: str, claim: str, message: bytes) -> None:
        """Take the message of a job that an ending has brought, as if it came over the connection.

        Without a connection, the job is handed back at the next connect.
        """
        slots, connection = self.node.slots, self.connection
        held = slots.held.get(job_id)
        if not held or held.claim != claim or not held.answer or not connection:
            return  # the node has given the job up, or runs it already
        channel = connection.default_channel
        if channel.node_queue.name not in channel.active_queues:  # the worker does not consume now
            give_back = partial(park_unacked, self.app.minsched, self.node.node_id, claim, job_id)
            slots.outbox.put(f"put back the message of job {job_id}", give_back)
            slots.hand_back([job_id])
        elif not channel.deliver_stored(message, job_id, claim):
            logger.error("job %s has no message that can be read: it fails", job_id)
            self.node.endings.report(job_id, "failed", "undecodable")

    def claim_again(self, request: Any) -> None:
        """Claim the job of a request that has not begun. Redis may have declared the node dead
        since the last claim.
        """
        slots, job_id = self.node.slots, job_id_of(request.request_dict)
        if slots.is_given_up(job_id, claim_of(request.request_dict)):
            state.task_ready(request)
            return
        if slots.suspended or slots.term() is None:  # no claim would hold
            self.timer.call_after(_RETRY_PAUSE, self.claim_again, (request,))
            return

        def begin(_: Any) -> None:
            state.task_reserved(request)
            self.on_task_request(request)

        state.task_ready(request)  # the worker does not have it, unless the claim succeeds
        ClaimedMessage(self, job_id, request.message, begin).claim()

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._report_end(message, "undecodable")
        super().on_decode_error(message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._report_end(message, "no task message")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._report_end(message, "unregistered")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._report_end(message, "invalid")
        super().on_invalid_task(body, message, exc)

    def _report_end(self, message: Any, reason: str) -> None:
        if job_id := job_id_of(message.headers):
            self.node.endings.report(job_id, "failed", reason)
