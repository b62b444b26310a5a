"""Redis' answer to the node's last heartbeat, in memory that the worker and the pulse share."""

from __future__ import annotations

from multiprocessing.context import ForkContext

from .process import now


class LastHeartbeat:
    """When the last answered heartbeat began, and its answer. The pulse process writes it."""

    def __init__(self, context: ForkContext, interval: float) -> None:
        # Its start, the term, whether the node is draining, and the interval.
        self._values = context.RawArray("d", [now(), 0, 0, interval])

    def note(self, began: float, term: int, draining: bool, interval: float) -> None:
        """Write the answer to a heartbeat that began at ``began``."""
        self._values[2] = draining
        self._values[3], self._values[1] = interval, term
        self._values[0] = began  # last: the worker reads it before the term, see term()

    def term(self) -> int | None:
        """The node's term, or ``None`` while Redis may have raised it.

        Redis gets a heartbeat after it has begun here. It declares no node dead in the first two
        intervals of silence: that is the shortest silence that ``declare_dead`` allows, and
        ``node_ttl`` is longer. Each heartbeat tells Redis the interval that applies then. So the
        term holds for two intervals from the beginning of the last answered heartbeat.

        That beginning is read before the term here, and written after the term. The clock counts
        the time in which the process or the machine is stopped, and cannot be set.
        """
        is_certain = self.silence < 2 * self.interval
        return int(self._values[1]) or None if is_certain else None

    @property
    def silence(self) -> float:
        """Seconds since the last answered heartbeat began."""
        return now() - float(self._values[0])

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats: the setting, or more in a large fleet."""
        return float(self._values[3])

    @property
    def draining(self) -> bool:
        """Did the scheduler answer that the node gets no more jobs?"""
        return bool(self._values[2])
