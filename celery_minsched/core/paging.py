"""Splits a long list into calls. While Redis runs one call, it serves no other client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from . import lua_source

T = TypeVar("T")
Args = tuple[str | bytes | int, ...]

#: Items of one call, which takes Redis some milliseconds. Scripts refuse more items, see
#: lua/include/dispatch.lua.
MOST_ITEMS = lua_source.number("dispatch_plain", "MOST_JOBS")
#: Bytes of one call, roughly: Redis copies 1 MB in 1 ms. A larger item gets its own call.
MOST_BYTES = 1_000_000
#: Tasks of one call that revokes tasks. Each task has several keys to change.
MOST_REVOKED = 50


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def page_at(items: Sequence[Args], start: int) -> Sequence[Args]:
    """The items of one call, from the item at ``start``."""
    if len(items) == 1:
        return items[start:]
    size = 0
    for end, item in enumerate(items[start : start + MOST_ITEMS], start):
        size += sum(len(arg) for arg in item if isinstance(arg, str | bytes))
        if size > MOST_BYTES and end > start:
            return items[start:end]
    return items[start : start + MOST_ITEMS]


def pages(items: Sequence[Args]) -> Iterator[Sequence[Args]]:
    """The items of each call."""
    start = 0
    while start < len(items):
        page = page_at(items, start)
        yield page
        start += len(page)


def is_refused(answer: list[Any]) -> bool:
    """Was the job of this answer refused? Then the script has not looked at the jobs after it."""
    return answer[0] not in ("OK", "GONE")


def to_first_refused(
    call: Callable[..., list[Any]], jobs: Sequence[Args], first: Sequence[list[Any]] = ()
) -> list[list[Any]]:
    """The answers of a script that takes many jobs, up to the first job that it refuses.

    ``first`` are the answers for the first jobs, if the caller has them already.
    """
    answers = list(first)
    while len(answers) < len(jobs) and not (answers and is_refused(answers[-1])):
        answers += call(jobs=page_at(jobs, len(answers)))
    return answers
