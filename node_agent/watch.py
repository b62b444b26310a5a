"""Finds out whether a worker works, by looking again and again."""

from __future__ import annotations

import time

#: Seconds that a node may take to connect anew before it counts as stuck.
RECONNECT = 2.0


class Watch:
    """Counts the time without a sign of work. The signs and the looks may come from two threads.

    A watch of the worker gets a sign with each answer to the worker's question for the next
    message. One BLMOVE waits for a second at most, so a sign comes each second while the event loop
    turns and the node's queue is consumed.
    """

    def __init__(self, node_ttl: float) -> None:
        self._limit = node_ttl + RECONNECT
        self._signs = self._seen = 0
        self._silence = 0.0
        self._looked_at = time.monotonic()
        #: Does the worker take each message as soon as it comes? Not while Redis refuses to give.
        self.takes_at_once = True

    def note(self, takes_at_once: bool = True) -> None:
        """A sign of work."""
        self.takes_at_once = takes_at_once
        self._signs += 1

    def is_stuck(self, counts: bool, interval: float) -> bool:
        """Was there no sign for too long? The time since the last look ``counts`` if a worker that
        works would have given a sign.

        ``interval`` is the time between two looks. A look that comes late counts no more than two
        intervals: the looking process itself may have had no processor.
        """
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, 2 * interval), now
        if self._signs != self._seen:
            self._seen, self._silence = self._signs, 0.0
        elif counts:
            self._silence += passed
        return self._silence > self._limit
