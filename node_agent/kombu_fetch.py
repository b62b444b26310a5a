"""How a node takes a message from its queue, so that it is never nowhere.

kombu's BRPOP hands a message over before anybody has noted it: a worker that is killed, or a
connection that breaks, between the two loses it. Here BLMOVE puts it in a list of the node's own,
and it leaves that in the step that notes it as unacknowledged (``NodeQoS.append``).

An entry that is no message (an operator put it there by hand) ends kombu's worker. Here it is
dropped.

Where Redis refuses (it has no memory, or has become a replica) kombu lets the error end the
worker's event loop. Here the node asks again in a second, over a new connection, and its tasks end
meanwhile. A message that it has taken, and that there is no memory to note, waits in that list.
"""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import OutOfMemoryError, ResponseError

from celery_minsched.plugin.messages import NO_JSON

from .watch import Watch

logger = logging.getLogger(__name__)

_ASK_AGAIN = 1.0  # seconds
#: Seconds for which one question for the next message waits.
LONGEST_WAIT = 1.0
#: What kombu raises on the way from an entry of a list to a message.
_NO_MESSAGE = (*NO_JSON, RecursionError)


def take_by_move(channel: Any, queue: str, taken_key: str, watch: Watch) -> None:
    """Have a channel of kombu's Redis transport take ``queue`` so, while it consumes no other.

    ``watch`` gets a sign with each answer of Redis.

    The names are kombu 5.7's own: ``_brpop_start`` sends the command and ``_brpop_read`` reads the
    answer, a pair of list and message. ``channel.taken`` is the message as it lies in the list
    ``taken_key``, None while none does.
    """
    intake = _Intake(channel, queue, taken_key, watch)
    # A blocked question must be answered before its connection counts as lost.
    channel.brpop_timeout = min(channel.brpop_timeout or LONGEST_WAIT, LONGEST_WAIT)
    channel.taken = None
    channel._brpop_start = intake.start
    channel.handlers["BRPOP"] = intake.handle
    channel.client.set_response_callback("BRPOP", intake.read)


class _Intake:
    """What a channel does in place of kombu's own functions."""

    def __init__(self, channel: Any, queue: str, taken_key: str, watch: Watch) -> None:
        self._channel = channel
        self._queue = queue
        self._queue_key = channel.global_keyprefix + queue
        self._taken_key = taken_key
        self._watch = watch
        self._start_pop = channel._brpop_start
        self._handle_pop = channel.handlers["BRPOP"]
        self._pair = channel.client.response_callbacks.get("BRPOP", lambda answer, **_: answer)
        self._refused_at = -_ASK_AGAIN

    def start(self, timeout: float | None = None) -> None:
        """Ask for the next message."""
        channel = self._channel
        if time.monotonic() < self._refused_at + _ASK_AGAIN:
            return  # the event loop comes by again
        if channel.taken:
            try:
                channel.connection._deliver(loads(bytes_to_str(channel.taken)), self._queue)
            except OutOfMemoryError:
                self._refuse()
                return
        if list(channel.active_queues) != [self._queue]:  # the worker consumes one more
            self._start_pop(timeout)
            return
        connection = channel._in_poll = channel.client.connection
        channel._brpop_sent_at = time.monotonic()
        wait = channel.brpop_timeout if timeout is None else timeout
        places = (self._queue_key, self._taken_key)
        connection.send_command("BLMOVE", *places, "RIGHT", "LEFT", wait)

    def read(self, answer: Any, **options: Any) -> Any:
        """The list and the message of an answer."""
        if self._queue in self._channel.active_queues:
            self._watch.note()
        if not isinstance(answer, bytes):  # nothing came, or it came by BRPOP
            return self._pair(answer, **options)
        self._channel.taken = answer
        return self._queue_key.encode(), answer

    def handle(self) -> Any:
        """Deliver the message of an answer."""
        channel = self._channel
        try:
            return self._handle_pop()
        except ResponseError as exc:
            if channel.taken and not isinstance(exc, OutOfMemoryError):
                raise  # the worker connects anew
            logger.warning("Redis gives out no message just now: %s", exc)
            self._refuse()
            if not channel.taken:
                channel.client.connection.disconnect()  # the next one may find another server
            raise Empty from exc
        except _NO_MESSAGE as exc:
            if channel.taken is None:  # it was noted: the trouble is not the message's
                raise
            logger.error("%s had an entry that is no message; it is dropped: %r", self._queue, exc)
            with channel.conn_or_acquire() as client:
                client.lrem(self._taken_key, 1, channel.taken)
            channel.taken = None
            raise Empty from exc

    def _refuse(self) -> None:
        self._refused_at = time.monotonic()
        self._watch.note(takes_at_once=False)
