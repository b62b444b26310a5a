"""Reads the stream of events and the counters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from ..core.reading import Reader
from ..core.texts import numbers_of, record_of, text_of
from .models import Event


def events(
    reader: Reader, after: str = "", limit: int = 100, block_ms: int | None = None
) -> list[Event]:
    """Events after the event with the id ``after``, or the latest events, oldest first.

    With ``block_ms`` the call waits at most this time for an event.
    """
    stream = reader.keys("events")
    if not after:
        entries = reader.ask_one("XREVRANGE", stream, "+", "-", "COUNT", limit)[::-1]
    elif block_ms is None:
        entries = reader.ask_one("XRANGE", stream, f"({after}", "+", "COUNT", limit)
    else:
        answer = cast("Any", reader.redis.xread({stream: after}, count=limit, block=block_ms))
        entries = answer[0][1] if answer else []
    return [_event(event_id, fields) for event_id, fields in entries]


def _event(event_id: object, fields: object) -> Event:
    record = record_of(fields)
    return Event(event_id=text_of(event_id), kind=record.pop("kind", "unknown"), fields=record)


def counts_of(reader: Reader, pools: Iterable[str]) -> dict[str, dict[str, int]]:
    """The counters of each pool, and of the fleet for "". See lua/include/events.lua."""
    pools = list(pools)
    keys = (reader.keys("pool_counts", pool) if pool else reader.keys("counts") for pool in pools)
    answers = reader.ask(("HGETALL", key) for key in keys)
    return dict(zip(pools, map(numbers_of, answers), strict=True))
