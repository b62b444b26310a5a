"""The data of a page as plain JSON, and limits on its size.

``texts`` has a text for each named place. ``lists`` has lists of texts. ``tables`` has rows, each
with an ``id``. If a page asks for a part of a table, ``numbers`` has the number of matching rows
and the number of all rows. Ages are in seconds. The page itself escapes the texts.
"""

from __future__ import annotations

from typing import Any

from ..monitor.models import JobView

PageData = dict[str, Any]

#: The most names in one cell.
MAX_NAMES = 20

#: The most characters of one text.
MAX_TEXT = 2000


def truncate(value: Any) -> Any:
    """Cut each text in the data, including the names, to MAX_TEXT characters."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if isinstance(value, dict):
        return {truncate(name): truncate(item) for name, item in value.items()}
    return [truncate(item) for item in value] if isinstance(value, list) else value


def first_names(names: list[str]) -> list[str]:
    """The first names, and the number of the others."""
    others = len(names) - MAX_NAMES
    return names if others <= 0 else [*names[:MAX_NAMES], f"… and {others:,} more"]


def age(timestamp: int, now: int) -> int:
    """Seconds since ``timestamp``, or 0 if it is 0. ``now`` and ``timestamp`` are in ms."""
    return max(now - timestamp, 0) // 1000 if timestamp else 0


def shown_of(shown: int, total: int) -> str:
    """The part of a table that the page shows, in words."""
    return f"the first {shown:,} of {total:,}" if shown < total else "all"


def job_row(job: JobView, now: int) -> dict[str, Any]:
    """A row of a table of jobs."""
    start = job.waiting_ts if job.status == "waiting" else job.started_ts or job.dispatched_ts
    return {
        "id": job.job_id,
        "task": job.task,
        "task_id": job.task_id,
        "state": job.status,
        "pool": job.pool,
        "session": job.session_id,
        "age": age(start, now),
    }
