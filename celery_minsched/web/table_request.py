"""The rows of a table that a page requests: a search, an order and a range."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row")

#: The most rows of one answer.
MAX_ROWS = 200


class TableRequest(NamedTuple):
    """The rows that a page requests."""

    offset: int = 0
    limit: int = 50
    #: Words. A row matches if it contains all of them.
    find: str = ""
    #: The name of a column, or "" for the default order of the page.
    sort: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, argument: Callable[[str, str], str]) -> TableRequest:
        """Read a request's arguments. ``argument`` takes a name and a default.

        Raises ``ValueError`` if an argument is not a number.
        """
        return cls(
            offset=max(int(argument("offset", "0")), 0),
            limit=min(max(int(argument("limit", "50")), 1), MAX_ROWS),
            find=argument("find", ""),
            sort=argument("sort", ""),
            descending=argument("descending", "") == "1",
        )


#: The first rows in the default order.
FIRST_ROWS = TableRequest()


class TablePage(NamedTuple):
    """The rows to show, the number of matching rows, and the number of all rows."""

    rows: list[Any]
    matching: int
    total: int

    @property
    def numbers(self) -> list[int]:
        """The numbers below the table."""
        return [self.matching, self.total]


def select_rows(
    rows: Iterable[Row],
    request: TableRequest,
    sort_keys: Mapping[str, Callable[[Row], Any]],
    searched_text: Callable[[Row], str] = lambda _row: "",
) -> TablePage:
    """Search, sort and cut the rows. ``sort_keys`` has a sort key for each sortable column."""
    selected = list(rows)
    total = len(selected)
    words = request.find.casefold().split()
    if words:
        selected = [
            row for row in selected if all(word in searched_text(row).casefold() for word in words)
        ]
    if request.sort in sort_keys:
        selected.sort(key=sort_keys[request.sort], reverse=request.descending)
    end = request.offset + request.limit
    return TablePage(selected[request.offset : end], len(selected), total)


def natural_key(name: str) -> str:
    """A sort key that puts node-9 before node-10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(12), name)
