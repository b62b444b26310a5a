"""Looks at all there is, twice where the first look finds something."""

from __future__ import annotations

import time
from typing import Final

from ..monitor.queries import Views
from .breach import Breach
from .job_scan import JobScan
from .journal import check_journal
from .lasting import check_pools
from .leftovers import check_leftovers
from .lines import check_lines
from .look import Look, Tell
from .nodes import check_nodes
from .unreadable import check_keys

#: Seconds between two looks: longer than a message is in nobody's hands.
PAUSE: Final = 0.25


class Checker:
    """Checks a live scheduler, by reading only."""

    def __init__(self, views: Views, tell: Tell = lambda step, done, total: None) -> None:
        self._views, self._tell = views, tell

    def check(self, pause: float = PAUSE) -> list[Breach]:
        """What does not fit together; nothing on a sound state.

        What is read while jobs move may not fit together, so a breach counts when it stands in two
        looks running.
        """
        first = self._look()
        if not first:
            return []
        time.sleep(pause)
        second = self._look()
        return [second[place] for place in sorted(first.keys() & second.keys())]

    def _look(self) -> dict[tuple[str, tuple[str, ...]], Breach]:
        """Breaches by code and keys."""
        look = Look(self._views, self._tell)
        jobs = JobScan(look)
        jobs.read_keys()
        jobs.read_places()
        found: list[Breach] = []
        for check in (
            check_nodes,
            jobs.check,
            check_lines,
            check_pools,
            check_leftovers,
            check_journal,
            check_keys,
        ):
            found += check(look)
        return {(breach.code, breach.keys): breach for breach in found}
