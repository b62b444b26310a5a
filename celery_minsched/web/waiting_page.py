"""The page of waiting jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..monitor.lines import MOST_LINES
from ..monitor.models import JobView, LineView
from ..monitor.queries import Views
from .page_data import PageData, age, job_row, shown_of
from .table_request import FIRST_ROWS, MAX_ROWS, TableRequest, select_rows

#: The most jobs of one line, so that a long line leaves room for others.
MAX_JOBS_OF_LINE = 50

SORT_KEYS: dict[str, Callable[[LineView], Any]] = {
    "line": lambda line: line.demand,
    "state": lambda line: line.possible,
    "jobs": lambda line: line.waiting,
    "oldest": lambda line: -line.oldest_ts,
}


def waiting_page(views: Views, _subject: str = "", request: TableRequest = FIRST_ROWS) -> PageData:
    """Lines, and the first jobs of each shown line.

    The page reads at most MOST_LINES lines: the first that Redis returns, or the first that contain
    the words of a search. The number of waiting jobs covers all lines.
    """
    now, lines = views.now(), views.lines(MOST_LINES, request.find)
    job_count, line_count = views.waiting_count(), views.line_count()
    lines.sort(key=lambda line: line.oldest_ts)
    page = select_rows(lines, request._replace(find=""), SORT_KEYS)
    jobs = [
        {**job_row(job, now), "asks_for": line.demand, "place": place}
        for line, jobs_of_line in zip(page.rows, _first_jobs(views, page.rows), strict=True)
        for place, job in enumerate(jobs_of_line, 1)
    ]
    impossible = sum(line.waiting for line in lines if not line.possible)
    return {
        "texts": {
            "waiting": f"{job_count:,}",
            "impossible": f"{impossible:,}",
            "oldest": max((age(line.oldest_ts, now) for line in lines), default=0),
            "lines": _lines_text(len(lines), line_count, request),
            "shown": shown_of(len(jobs), job_count),
        },
        "tables": {"lines": [_row(line, now) for line in page.rows], "jobs": jobs},
        "numbers": {"lines": [page.matching, line_count]},
    }


def _first_jobs(views: Views, lines: list[LineView]) -> list[list[JobView]]:
    """The first jobs of each line, at most MAX_ROWS in total."""
    left, limits = MAX_ROWS, []
    for line in lines:
        limits.append(min(line.waiting, MAX_JOBS_OF_LINE, left))
        left -= limits[-1]
    return views.in_lines([line.name for line in lines], limits)


def _row(line: LineView, now: int) -> dict[str, Any]:
    return {
        "id": line.name,
        "asks_for": line.demand,
        "state": line.state,
        "waiting": line.waiting,
        "age": age(line.oldest_ts, now),
    }


def _lines_text(read: int, total: int, request: TableRequest) -> str:
    return f"{read:,} found, of {total:,}" if request.find else shown_of(read, total)
