"""Notes the unacknowledged messages of this node in kombu's hash and index, under the node's keys.

A message that is acknowledged before its job ends stays noted, marked as acknowledged, until the
job ends. If the node dies, the caller of that job gets an error (:mod:`node_agent.lost_jobs`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from time import time
from typing import Any

from celery import Celery
from kombu.transport.redis import QoS
from kombu.utils.json import dumps
from redis.exceptions import NoScriptError, ResponseError

from celery_minsched.core.keys import QUEUES, job_queue_name
from celery_minsched.plugin.messages import job_id_of

from .claims import Claims
from .kombu_keys import connection_as
from .requeue import park_unacked
from .slots import Slots

logger = logging.getLogger(__name__)


class NodeQoS(QoS):
    """kombu's record of unacknowledged messages. The record names a job's own list as the place to
    which the job's message returns.

    So a requeue, a shutdown, a lost connection and a rescue all put the message into that list.
    """

    #: :func:`node_agent.requeue.park_messages` returns the messages that are left, at a shutdown
    #: too. kombu 5.7 ends the worker with an AttributeError if the connection is cut while a task
    #: with late acknowledgement runs.
    restore_at_shutdown = False

    def __init__(
        self, channel: Any, *, app: Celery, slots: Slots, claims: Claims, taken_key: str
    ) -> None:
        super().__init__(channel)
        self._app = app
        self._slots = slots
        self._claims = claims
        self._taken_key = taken_key
        #: Key of the set of messages that were acknowledged and whose jobs go on.
        self._acked_key = QUEUES["node_acked"].format(slots.node_id)
        self._is_on_broker = app.minsched.is_on_broker

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note the message, remove it from the list of taken messages and claim its job, in one
        round trip.
        """
        job_id = job_id_of(message.headers)
        if self.channel.stored_tag == delivery_tag:
            self.channel.stored_tag = ""
        elif not self._claim_taken(job_id, delivery_tag):
            self._note(message, job_id, delivery_tag)
        self.channel.taken = None
        super(QoS, self).append(message, delivery_tag)

    def _claim_taken(self, job_id: str, delivery_tag: str) -> bool:
        """Have Redis note the taken message and claim its job. The message is not sent back."""
        if not self.channel.taken or not self._claims_on_note(job_id):
            return False
        with self.channel.conn_or_acquire(self.channel.notes) as client:
            return self._claims.claim_taken(client, job_id, delivery_tag)

    def _claims_on_note(self, job_id: str) -> bool:
        """Is the job claimed in the step that notes its message?"""
        return bool(job_id) and self._is_on_broker and job_id not in self._slots.held

    def _note(self, message: Any, job_id: str, delivery_tag: str) -> None:
        """Send the message to Redis, to be noted."""
        place = ("", job_queue_name(job_id)) if job_id else _place_of(message.delivery_info)
        with self.pipe_or_acquire(client=self.channel.notes) as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: time()})
            pipe.hset(self.unacked_key, delivery_tag, dumps([message._raw, *place]))
            if self.channel.taken:
                pipe.lrem(self._taken_key, 1, self.channel.taken)
            held = self._slots.held_by_tag(job_id, delivery_tag)
            if held and held.is_acknowledged and not held.has_ended:  # Redis may have lost that
                pipe.sadd(self._acked_key, delivery_tag)
            if self._claims_on_note(job_id):
                self._claim(pipe, job_id, delivery_tag)
            else:
                pipe.execute()

    def _claim(self, pipe: Any, job_id: str, delivery_tag: str) -> None:
        """Execute ``pipe`` with a claim of the job."""
        on_answer = self._claims.add_to(pipe, job_id, delivery_tag)
        try:
            *noted, answer = pipe.execute(raise_on_error=False)
            if error := next((one for one in noted if isinstance(one, Exception)), None):
                raise error
        except BaseException:
            self._slots.drop(job_id)
            raise
        if isinstance(answer, NoScriptError):
            # At once, and not in the outbox: the next message must not be claimed before this one.
            on_answer = self._claims.add_to(pipe, job_id, delivery_tag, load=True)
            answer = pipe.execute(raise_on_error=False)[-1]
        on_answer(answer)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. The message of a job that goes on stays noted until the job ends:
        the script that frees the slot removes it.
        """
        message = self._delivered.get(delivery_tag)
        job_id = job_id_of(message.headers) if message else ""
        held = self._slots.held_by_tag(job_id, delivery_tag)
        if held is None:
            with self._connected() as qos:
                qos._remove_from_indices(delivery_tag).execute()
        elif not held.has_ended and not held.is_acknowledged:
            held.is_acknowledged = True
            with self._connected() as qos, qos.channel.conn_or_acquire() as client:
                try:
                    client.sadd(self._acked_key, delivery_tag)
                except ResponseError as exc:  # the task runs nevertheless
                    logger.warning("Redis does not note that a message is acknowledged: %s", exc)
                if held.has_ended:  # meanwhile, in another thread
                    client.srem(self._acked_key, delivery_tag)
        self._quick_ack(delivery_tag)  # what kombu.transport.virtual.QoS.ack does

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._delivered.get(delivery_tag)
        job_id = job_id_of(message.headers) if message else ""
        if requeue and job_id:
            # In the outbox: Celery logs an error of Redis here and forgets the message.
            node_id = self._slots.node_id
            park = partial(park_unacked, self._app.minsched, node_id, delivery_tag, job_id)
            self._slots.outbox.put(f"put back the message of job {job_id}", park)
        else:
            with self._connected() as qos:
                if requeue:
                    qos.restore_by_tag(delivery_tag, leftmost=True)
                else:
                    qos._remove_from_indices(delivery_tag).execute()
        self._quick_ack(delivery_tag)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[QoS]:
        """This record, or the same over a new connection if the connection of its messages is lost.
        (kombu 5.7 raises an AttributeError then, and the worker ends.)
        """
        if self.channel.connection is not None:
            yield self
            return
        with connection_as(self._app, self._slots.node_id) as connection:
            connection.connect()  # once. The channel would retry for long
            yield connection.channel().qos


def _place_of(delivery_info: dict[str, str]) -> tuple[str, str]:
    return delivery_info["exchange"], delivery_info["routing_key"]
