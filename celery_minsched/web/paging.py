"""A part of a table: the rows that a page asks for, of all that match its search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row")

#: Rows of one answer.
MOST_ROWS = 200


class Asked(NamedTuple):
    """Which rows of its table a page shows."""

    offset: int = 0
    limit: int = 50
    #: Words that a row must have, all of them.
    find: str = ""
    #: The name of a column; "" for the order of the page.
    sort: str = ""
    descending: bool = False

    @classmethod
    def of(cls, argument: Callable[[str, str], str]) -> Asked:
        """From the arguments of a request. Raises ``ValueError`` for what is no number."""
        return cls(
            offset=max(int(argument("offset", "0")), 0),
            limit=min(max(int(argument("limit", "50")), 1), MOST_ROWS),
            find=argument("find", ""),
            sort=argument("sort", ""),
            descending=argument("descending", "") == "1",
        )


#: The first rows, in the order of the page.
FIRST = Asked()


class Part(NamedTuple):
    """The rows shown, and how many there are."""

    rows: list[Any]
    matching: int
    total: int

    @property
    def numbers(self) -> list[int]:
        """What the page says below its table."""
        return [self.matching, self.total]


def part_of(
    rows: Iterable[Row],
    asked: Asked,
    orders: Mapping[str, Callable[[Row], Any]],
    text: Callable[[Row], str] = lambda _row: "",
) -> Part:
    """The rows that are asked for. ``orders`` has a key for each column by which they are sorted,
    and ``text`` the text of a row that is searched.
    """
    found = list(rows)
    total = len(found)
    words = asked.find.casefold().split()
    if words:
        found = [row for row in found if all(word in text(row).casefold() for word in words)]
    if asked.sort in orders:
        found.sort(key=orders[asked.sort], reverse=asked.descending)
    return Part(found[asked.offset : asked.offset + asked.limit], len(found), total)


def natural(name: str) -> str:
    """A key by which node-9 stands before node-10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(12), name)
