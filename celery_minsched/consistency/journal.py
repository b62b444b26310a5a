"""The stream of events and the counters: can Redis go on from what they hold?

A script that tells an event or counts mends what it meets (lua/include/events.lua). Until then the
times of events are wrong, or a counter is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.reading import is_number, pages, record_of, text_of
from ..core.stored import ask_each, is_wrong_type
from .breach import Breach
from .look import Look

#: ms by which an event's id lies in the future at most, as in lua/include/events.lua.
MOST_AHEAD = 86_400_000

#: Far from the largest number that Redis can store.
MOST_COUNTED = 2**62


def check_journal(look: Look) -> Iterator[Breach]:
    """Events and counters."""
    events = look.keys("events")
    [latest] = ask_each(look.redis, [("XREVRANGE", events, "+", "-", "COUNT", 1)])
    if fault := _fault_of(latest, look.now):
        yield Breach(
            code="unusable_events",
            sentence=f"{fault}; --repair deletes all events",
            keys=(events,),
            subject=("key", events),
        )
    for page in pages(
        [key for name in ("counts", "pool_counts") for key in look.met.get(name, ())]
    ):
        answers = ask_each(look.redis, [("HGETALL", key) for key in page])
        for key, counters in zip(page, answers, strict=True):
            yield from _check_counters(key, counters)


def _fault_of(latest: Any, now: int) -> str:
    """What is wrong with the stream, by the answer with its latest event; "" for nothing."""
    if is_wrong_type(latest):
        return "the key of the events is not a stream"
    if latest and int(text_of(latest[0][0]).partition("-")[0]) > now + MOST_AHEAD:
        return "the latest event lies in the future, so the times of all later events are wrong"
    return ""


def _check_counters(key: str, counters: Any) -> Iterator[Breach]:
    if is_wrong_type(counters):
        sentence = "the key of the counters is not a hash"
        yield Breach(code="unusable_counter", sentence=sentence, keys=(key,), subject=("key", key))
        return
    unusable = [field for field, value in record_of(counters).items() if not _can_count_on(value)]
    if unusable:
        yield Breach(
            code="unusable_counter",
            sentence=f"{len(unusable)} of the counters are not numbers to which Redis can add",
            keys=(key,),
            subject=("field", key, *sorted(unusable)),
        )


def _can_count_on(value: str) -> bool:
    return is_number(value) and abs(int(value)) < MOST_COUNTED
