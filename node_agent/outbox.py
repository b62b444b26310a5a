"""The outbox: a thread that makes the node's calls to Redis, because the event loop may not block.

Endings keep their order, and the outbox keeps each until Redis has it. If Redis refuses another
call, the outbox makes that call again later. It gives up a call that can never succeed. While Redis
is away, every call waits.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kombu.exceptions import OperationalError
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two attempts
_LONGEST_PAUSE_OF_REFUSED_ENDING = 60.0

_AWAY = (ConnectionError, TimeoutError, InvalidResponse, OperationalError)
#: Errors of the server's state, not of the call.
_SERVER_STATE = (
    OutOfMemoryError,
    ReadOnlyError,
    NoPermissionError,
    NoScriptError,
    ClusterDownError,
    TryAgainError,
)
#: The same errors in a text. Some have no class in redis-py. Redis 6.2 puts all of them into the
#: text of a script's error.
_SERVER_STATE_CODE = re.compile(
    "(?:^|: -)(?:OOM|READONLY|NOPERM|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|MISCONF|NOREPLICAS|BUSY) "
)


def is_temporary(exc: Exception) -> bool:
    """Can the call succeed later, when the server's state has changed?"""
    if isinstance(exc, (*_SERVER_STATE, *_AWAY)):
        return True
    return isinstance(exc, ResponseError) and bool(_SERVER_STATE_CODE.search(str(exc)))


@dataclass
class Call:
    """A call to Redis."""

    name: str  # what it does, for the log: "end job j1"
    make: Callable[[], object]
    is_ending: bool = False
    give_up: Callable[[], None] | None = None  # called instead, if the call can never succeed
    pause: float = 0.0  # before the last attempt

    def next_pause(self, longest: float = _LONGEST_PAUSE) -> float:
        """Seconds until the next attempt. Each pause is twice as long as the one before."""
        self.pause = min(2 * self.pause or _FIRST_PAUSE, longest)
        return self.pause


class Outbox:
    """Makes calls in a thread of its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._endings: deque[Call] = deque()
        self._endings_due = 0.0
        self._others: list[tuple[float, int, Call]] = []  # a heap, by the time of the next attempt
        self._numbers = itertools.count()
        self._stopping = False
        self._has_left = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, after the worker has forked its children."""
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def stop(self, patience: float) -> None:
        """Make the due calls, and wait ``patience`` seconds at most for the endings."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread:
            self._thread.join(patience)
        self._has_left.set()
        with self._changed:
            self._changed.notify()

    def put(
        self,
        name: str,
        make: Callable[[], object],
        give_up: Callable[[], None] | None = None,
        pause: float = 0.0,
    ) -> None:
        """Make a call in ``pause`` seconds. Safe from any thread."""
        self._put_back(Call(name, make, give_up=give_up), pause)

    def put_ending(self, name: str, make: Callable[[], object], frees_slot: bool = True) -> None:
        """Make a call that ends a job. Safe from any thread. If the call frees no slot, it is made
        after the calls that do.
        """
        call = Call(name, make, is_ending=True)
        if not frees_slot:
            self._put_back(call, 0.0)
            return
        with self._changed:
            self._endings.append(call)
            self._changed.notify()

    def _put_back(self, call: Call, pause: float) -> None:
        with self._changed:
            due = time.monotonic() + pause
            heapq.heappush(self._others, (due, next(self._numbers), call))
            self._changed.notify()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                self._make(call)
            except Exception as exc:
                self._on_refused(call, exc)
            else:
                if call.pause:
                    logger.info("Redis accepts the call to %s again", call.name)

    def _next(self) -> Call | None:
        """Take the next due call out of the queue, or ``None`` at the end."""
        with self._changed:
            while not self._has_left.is_set():
                now = time.monotonic()
                if self._endings and self._endings_due <= now:
                    return self._endings.popleft()
                if self._others and self._others[0][0] <= now:
                    return heapq.heappop(self._others)[2]
                if self._stopping and not self._endings:
                    return None
                due = [self._endings_due] if self._endings else []
                due += [self._others[0][0]] if self._others else []
                self._changed.wait(min(due) - now if due else None)
        return None

    def _make(self, call: Call) -> None:
        """Make the call, and repeat it while Redis is away."""
        pause = 0.0
        while True:
            try:
                call.make()
            except _AWAY as exc:
                if self._endings and not call.is_ending:
                    raise  # perhaps only this call takes too long, and the endings would not
                if not pause:
                    logger.warning(
                        "Redis is away. The node keeps the endings of tasks until it is back: %s",
                        exc,
                    )
                pause = min(2 * pause or _FIRST_PAUSE, _LONGEST_PAUSE)
                if self._has_left.wait(pause):
                    return
                continue
            if pause:
                logger.info("Redis is back")
            return

    def _on_refused(self, call: Call, exc: Exception) -> None:
        is_first, temporary = not call.pause, is_temporary(exc)
        if temporary and call.is_ending:  # Redis will refuse the endings behind it too
            with self._changed:
                self._endings.appendleft(call)
                self._endings_due = time.monotonic() + call.next_pause()
        elif temporary:
            self._put_back(call, call.next_pause())
        elif call.is_ending:
            # The node holds the job until an operator repairs the job's record.
            self._put_back(call, call.next_pause(_LONGEST_PAUSE_OF_REFUSED_ENDING))
        if not temporary and not call.is_ending:
            logger.error("cannot %s. The node does not try again", call.name, exc_info=exc)
            if call.give_up:
                call.give_up()
        elif is_first:
            logger.warning("cannot %s now. The node tries again: %s", call.name, exc)
