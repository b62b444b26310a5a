"""The page of events."""

from __future__ import annotations

from typing import Any

from ..monitor.models import Event
from ..monitor.queries import Views
from .page_data import PageData, age
from .table_request import FIRST_ROWS, MAX_ROWS, TableRequest

#: The most fields of one event.
MAX_FIELDS = 20


def events_page(views: Views, _subject: str = "", _request: TableRequest = FIRST_ROWS) -> PageData:
    """The events. The latest event comes first."""
    now = views.now()
    rows = [_row(event, now) for event in reversed(views.events(limit=MAX_ROWS))]
    return {"tables": {"events": rows}}


def _row(event: Event, now: int) -> dict[str, Any]:
    return {
        "id": event.event_id,
        "ts": event.ts,
        "age": age(event.ts, now),
        "state": event.kind,
        "fields": dict(list(event.fields.items())[:MAX_FIELDS]),
    }
