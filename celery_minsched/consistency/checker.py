"""Scans the Redis data for violations, and scans again to confirm them."""

from __future__ import annotations

import time
from typing import Final

from ..monitor.queries import Views
from .job_scan import JobScan
from .journal import check_journal
from .leftovers import check_leftovers
from .lines import check_lines
from .nodes import check_nodes
from .pools import check_pools
from .state_scan import Report, StateScan, no_report
from .unreadable import check_keys
from .violation import Violation

#: Seconds between two scans. A message that moves between two keys arrives within this time.
PAUSE: Final = 0.25


class Checker:
    """Checks a live scheduler. It only reads."""

    def __init__(self, views: Views, report: Report = no_report) -> None:
        self._views, self._report = views, report

    def check(self, pause: float = PAUSE) -> list[Violation]:
        """The violations that two scans find, ``pause`` seconds apart.

        A job that moves during a scan can look like a violation. The second scan does not find it.
        """
        first = self.scan_once()
        if not first:
            return []
        time.sleep(pause)
        second = self.scan_once()
        return [second[place] for place in sorted(first.keys() & second.keys())]

    def scan_once(self) -> dict[tuple[str, tuple[str, ...]], Violation]:
        """The violations of one scan, by code and keys."""
        scan = StateScan(self._views, self._report)
        jobs = JobScan(scan)
        jobs.read_keys()
        jobs.read_places()
        violations: list[Violation] = []
        for check in (
            check_nodes,  # the later checks use its list of nodes
            jobs.check,
            check_lines,
            check_pools,
            check_leftovers,
            check_journal,
            check_keys,  # last: the other checks note unreadable keys
        ):
            violations += check(scan)
        return {(violation.code, violation.keys): violation for violation in violations}
