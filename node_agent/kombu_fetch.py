"""Takes a message from the node's queue so that a list or kombu's hash always holds it.

kombu takes a message by BRPOP, and notes it as unacknowledged in a second step. If the worker or
the connection dies between the two steps, the message is lost. :class:`ReliableChannel` moves the
message by BLMOVE to a list of the node. The message leaves that list in the step that notes it as
unacknowledged (``NodeQoS.append``).

An entry that is not a message would end kombu's worker. The channel drops such an entry.

If Redis refuses a command (it has no memory, or has become a replica), kombu ends the worker's
event loop. The channel asks again after a second, over a new connection. Running tasks go on
meanwhile. A message waits in the node's list while Redis has no memory to note it.

The overridden names with a leading underscore are kombu 5.7's: ``_brpop_start`` sends the command,
and ``_brpop_read`` reads and delivers the answer.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty
from typing import Any

from kombu.transport.redis import Channel, QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import OutOfMemoryError, ResponseError

from celery_minsched.plugin.messages import NO_JSON, job_id_of

from .watch import Watch

logger = logging.getLogger(__name__)

_PAUSE_AFTER_REFUSAL = 1.0  # seconds
#: Seconds for which one BLMOVE waits for a message.
LONGEST_WAIT = 1.0
#: What kombu raises if an entry is not a message.
_NOT_A_MESSAGE = (*NO_JSON, RecursionError)


@dataclass(frozen=True)
class NodeQueue:
    """The queue that a node consumes."""

    name: str
    taken_key: str  # the list of the message that was taken and is not noted yet
    make_qos: Callable[[Channel], QoS]
    watch: Watch  # gets a sign with each answer of Redis


def reliable_fetch(connection: Any, queue: NodeQueue) -> None:
    """Make a connection that is not open yet consume ``queue`` by a :class:`ReliableChannel`.

    The same holds after kombu has switched to another broker URL.
    """
    connection.get_transport_cls = partial(_transport, connection.get_transport_cls, queue)


def _transport(get_transport_cls: Callable[[], Any], queue: NodeQueue) -> Any:
    base = get_transport_cls()
    channel = type("NodeChannel", (ReliableChannel, base.Channel), {"node_queue": queue})
    return type("NodeTransport", (base,), {"Channel": channel})


class ReliableChannel(Channel):
    """kombu's channel. It takes messages by BLMOVE while it consumes the node's queue alone."""

    node_queue: NodeQueue
    #: The message in the list ``node_queue.taken_key``.
    taken: bytes | None = None
    #: Delivery tag of a message that is delivered now and that Redis has as unacknowledged.
    stored_tag = ""
    _refused_at = -_PAUSE_AFTER_REFUSAL
    QoS: Any
    _brpop_sent_at: Any
    _in_poll: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.QoS = self.node_queue.make_qos
        #: Notes messages. kombu makes a client for each message, a sixth of the loop's time for it.
        self.notes = self._create_client()
        # A waiting BLMOVE must be answered before its connection counts as lost.
        self.brpop_timeout = min(self.brpop_timeout or LONGEST_WAIT, LONGEST_WAIT)
        self._parse_pop = self.client.response_callbacks.get("BRPOP", lambda answer, **_: answer)
        self.client.set_response_callback("BRPOP", self._parse)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if time.monotonic() < self._refused_at + _PAUSE_AFTER_REFUSAL:
            return  # the event loop calls this again
        queue = self.node_queue
        if self.taken:
            try:
                self.connection._deliver(loads(bytes_to_str(self.taken)), queue.name)
            except OutOfMemoryError:
                self._pause()
                return
        if list(self.active_queues) != [queue.name]:  # the worker consumes another queue too
            super()._brpop_start(timeout)
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(
            "BLMOVE",
            *(self.global_keyprefix + queue.name, queue.taken_key, "RIGHT", "LEFT"),
            self.brpop_timeout if timeout is None else timeout,
        )

    def _parse(self, answer: Any, **options: Any) -> Any:
        """The list and the message of an answer to BLMOVE or BRPOP."""
        queue = self.node_queue
        if queue.name in self.active_queues:
            queue.watch.note()
        if not isinstance(answer, bytes):  # no message, or the answer to BRPOP
            return self._parse_pop(answer, **options)
        self.taken = answer
        return (self.global_keyprefix + queue.name).encode(), answer

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError as exc:
            if self.taken and not isinstance(exc, OutOfMemoryError):
                raise  # the worker connects again
            logger.warning("Redis refuses to give a message. The node tries again: %s", exc)
            self._pause()
            if not self.taken:
                self.client.connection.disconnect()  # the next connection may reach another server
            raise Empty from exc
        except _NOT_A_MESSAGE as exc:
            if self.taken is None:  # it was noted, so the entry is a message
                raise
            queue = self.node_queue
            logger.error("an entry of %s is not a message and is dropped: %r", queue.name, exc)
            with self.conn_or_acquire() as client:
                client.lrem(queue.taken_key, 1, self.taken)
            self.taken = None
            raise Empty from exc

    def unanswered_for(self) -> float:
        """Seconds for which Redis has not answered the command for the next message."""
        if not self._in_poll or self._brpop_sent_at is None or _is_readable(self._in_poll._sock):
            return 0.0
        return time.monotonic() - float(self._brpop_sent_at)

    def deliver_stored(self, text: bytes, job_id: str, tag: str) -> bool:
        """Deliver the message of a job. Redis has it as unacknowledged with this delivery tag.

        Returns false if the text is not the job's message.
        """
        self.stored_tag = tag
        try:
            message = loads(bytes_to_str(text))
            if job_id_of(message["headers"]) != job_id:
                return False
            message["properties"]["delivery_tag"] = tag
            self.connection._deliver(message, self.node_queue.name)
        except _NOT_A_MESSAGE:
            if not self.stored_tag:  # it was noted, so the text is a message
                raise
            return False
        finally:
            self.stored_tag = ""
        return True

    def _pause(self) -> None:
        self._refused_at = time.monotonic()
        self.node_queue.watch.note(takes_at_once=False)


def _is_readable(sock: Any) -> bool:
    """Is there an answer that the event loop has yet to read?"""
    if sock is None:
        return False
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))
