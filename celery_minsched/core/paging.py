"""Cuts a long list into calls: Redis serves no other client while it works on one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from . import lua_source
from .outcomes import is_refused

T = TypeVar("T")
Args = tuple[str | bytes | int, ...]

#: Items of one call: Redis is busy with it for some milliseconds. Scripts that take many jobs
#: refuse more, see lua/include/dispatch.lua.
MOST_ITEMS = lua_source.number("dispatch", "MOST_JOBS")
#: Bytes of one call, about: Redis copies 1 MB in a millisecond. A larger item has its own call.
MOST_BYTES = 1_000_000
#: Tasks of one call that revokes them: each leaves its line, its turns and its list.
MOST_REVOKED = 50


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def page_at(items: Sequence[Args], start: int) -> Sequence[Args]:
    """The items of the call that begins with the item at ``start``."""
    size = 0
    for end, item in enumerate(items[start : start + MOST_ITEMS], start):
        size += sum(len(arg) for arg in item if isinstance(arg, str | bytes))
        if size > MOST_BYTES and end > start:
            return items[start:end]
    return items[start : start + MOST_ITEMS]


def pages(items: Sequence[Args]) -> Iterator[Sequence[Args]]:
    """All items, call by call."""
    start = 0
    while start < len(items):
        page = page_at(items, start)
        yield page
        start += len(page)


def to_first_refused(
    call: Callable[..., list[Any]], jobs: Sequence[Args], answers: Sequence[list[Any]] = ()
) -> list[list[Any]]:
    """The answers for all jobs, to the first that is refused, from a script that takes ``jobs``.

    ``answers`` are those for the first jobs, if there are any already.
    """
    found = list(answers)
    while len(found) < len(jobs) and not (found and is_refused(found[-1])):
        found += call(jobs=page_at(jobs, len(found)))
    return found
