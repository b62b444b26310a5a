"""Finds out whether a worker works, from signs of work."""

from __future__ import annotations

import time

#: Seconds that a node may take to connect again before it counts as stuck.
RECONNECT = 2.0


class Watch:
    """Counts the time without a sign of work. Signs and looks may come from two threads.

    The watch of the worker gets a sign with each answer to the worker's BLMOVE. A BLMOVE waits for
    a second at most, so a sign comes each second while the event loop runs and consumes the queue.
    """

    def __init__(self, node_ttl: float) -> None:
        self._limit = node_ttl + RECONNECT
        self._signs = self._seen = 0
        self._silence = 0.0
        self._looked_at = time.monotonic()
        #: Does the worker take each message as soon as it comes? Not while Redis refuses commands.
        self.takes_at_once = True

    def note(self, takes_at_once: bool = True) -> None:
        """Note a sign of work."""
        self.takes_at_once = takes_at_once
        self._signs += 1

    def is_stuck(self, counts: bool, interval: float) -> bool:
        """Was there no sign for too long?

        The time since the last look ``counts`` if a working worker would have given a sign.
        ``interval`` is the time between two looks. A late look counts two intervals at most: the
        looking process itself may have got no processor time.
        """
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, 2 * interval), now
        if self._signs != self._seen:
            self._seen, self._silence = self._signs, 0.0
        elif counts:
            self._silence += passed
        return self._silence > self._limit
