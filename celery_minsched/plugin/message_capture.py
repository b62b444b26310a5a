"""Gets the message that Celery and kombu (5.7) make, before kombu sends it.

kombu's producer publishes to its batch, ``producer._batch_local.current``, if it has one. The name
is private, so only this module uses it. Celery sends the task's event by the same producer: that
message goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .header import HEADER, TO_BE_DISPATCHED


class _Interceptor:
    """Takes the place of a producer's batch, and handles each message for one queue."""

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


class _MessageCapture(_Interceptor):
    """Passes the message to be dispatched, and its text, to ``take``."""

    def __init__(self, take: Callable[[dict[str, Any], str], None], batch: Any) -> None:
        super().__init__(TO_BE_DISPATCHED.name, batch)
        self._take = take
        self._message: dict[str, Any] = {}

    def _publish(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        self._message = message
        return channel.basic_publish(message, _publish_batch=self, **options)

    def add(self, _command: str, _key: str, text: str) -> None:
        """kombu adds the Redis command that would send the message."""
        self._take(self._message, text)


class _PriorityInHeader(_Interceptor):
    """Sends the message without a priority, which goes into the scheduler's header."""

    def _publish(self, channel: Any, message: Any, options: dict[str, Any]) -> Any:
        if isinstance(message, dict):  # of a transport that kombu itself implements
            properties = message["properties"]
            message["headers"][HEADER].setdefault("priority", properties["priority"])
            properties["priority"] = 0
        return self._publish_by_kombu(channel, message, options)


def captured(
    producer: Any, take: Callable[[dict[str, Any], str], None]
) -> AbstractContextManager[None]:
    """Context manager: passes the message and its JSON text to ``take`` instead of sending it."""
    return _in_place_of_batch(producer, lambda batch: _MessageCapture(take, batch))


def without_priority(producer: Any, queue: str) -> AbstractContextManager[None]:
    """Context manager: sends the message for this queue with its priority in the header.

    A node's queue is one list at the broker. kombu would use one list for each priority.
    """
    return _in_place_of_batch(producer, lambda batch: _PriorityInHeader(queue, batch))


@contextmanager
def _in_place_of_batch(producer: Any, make: Callable[[Any], _Interceptor]) -> Iterator[None]:
    batch = getattr(producer._batch_local, "current", None)
    producer._batch_local.current = make(batch)
    try:
        yield
    finally:
        producer._batch_local.current = batch
