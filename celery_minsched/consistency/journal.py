"""Rules about the stream of events and the counters: can scripts add to them?

A script that adds an event or counts mends what it finds (lua/include/events.lua). Until then the
times of events are wrong, or a counter is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.lua_source import number
from ..core.reading import pages
from ..core.stored import ask_each, is_wrong_type
from ..core.texts import is_number, record_of, text_of
from .state_scan import StateScan
from .violation import Violation

#: The most ms by which an event's id may be in the future.
MOST_AHEAD = number("events", "MOST_AHEAD")

#: The largest counter that is sound. Redis can add to it for a long time.
MOST_COUNTED = 2**62


def check_journal(scan: StateScan) -> Iterator[Violation]:
    """Check the events and the counters."""
    events = scan.keys("events")
    [latest] = ask_each(scan.redis, [("XREVRANGE", events, "+", "-", "COUNT", 1)])
    if fault := _fault_of(latest, scan.now):
        yield Violation(
            code="unusable_events",
            sentence=f"{fault}; --repair deletes all events",
            keys=(events,),
            subject=("key", events),
        )
    for page in pages(key.key for key in scan.keys_of_kind("counts", "pool_counts")):
        answers = ask_each(scan.redis, [("HGETALL", key) for key in page])
        for key, counters in zip(page, answers, strict=True):
            yield from _check_counters(key, counters)


def _fault_of(latest: Any, now: int) -> str:
    """The fault of the stream, according to its latest event, or "" for none."""
    if is_wrong_type(latest):
        return "the key of the events is not a stream"
    if latest and int(text_of(latest[0][0]).partition("-")[0]) > now + MOST_AHEAD:
        return "the latest event is in the future, so the times of all later events are wrong"
    return ""


def _check_counters(key: str, counters: Any) -> Iterator[Violation]:
    if is_wrong_type(counters):
        yield Violation(
            code="unusable_counter",
            sentence="the key of the counters is not a hash",
            keys=(key,),
            subject=("key", key),
        )
        return
    unusable = [field for field, value in record_of(counters).items() if not _is_counter(value)]
    if unusable:
        yield Violation(
            code="unusable_counter",
            sentence=f"{len(unusable)} of the counters are not numbers to which Redis can add",
            keys=(key,),
            subject=("field", key, *sorted(unusable)),
        )


def _is_counter(value: str) -> bool:
    return is_number(value) and abs(int(value)) < MOST_COUNTED
