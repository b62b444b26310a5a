"""Reads many keys of Redis in pages: each round trip reads a bounded number of keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count as counting
from itertools import islice
from typing import Any, TypeVar, cast

import redis

from .keys import Keys
from .stored import Command, ask
from .texts import text, text_of, texts

T = TypeVar("T")

PAGE = 100  # keys read in one round trip: Redis does all of it in one go
MANY = 500  # names in one answer of a SCAN


class Reader:
    """Reads the scheduler's keys. It changes none."""

    def __init__(self, redis: redis.Redis, keys: Keys) -> None:
        self.redis, self.keys = redis, keys

    def ask(self, commands: Iterable[Command]) -> list[Any]:
        """The answers to many cheap commands, in round trips of PAGE commands."""
        answers: list[Any] = []
        for page in pages(commands):
            answers += ask(self.redis, page)
        return answers

    def ask_one(self, *command: str | int) -> Any:
        """The answer to one command."""
        return ask(self.redis, [command])[0]

    def items(self, command: str, name: str) -> Iterator[tuple[str, Any]]:
        """The members of a sorted set (``ZSCAN``) or the fields of a hash (``HSCAN``).

        Each comes with its score or value. An item can come twice.
        """
        cursor = 0
        while True:
            cursor, page = self.ask_one(command, self.keys(name), cursor, "COUNT", MANY)
            for member, value in page.items() if isinstance(page, Mapping) else page:
                yield text_of(member), value
            if not int(cursor):
                return

    def members(self, name: str) -> list[str]:
        """The members of a set, each once."""
        key = self.keys(name)
        return self.members_of([key])[key]

    def members_of(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The members of each of these sets. Small sets share a round trip."""
        members: dict[str, list[str]] = {key: [] for key in keys}
        cursors = dict.fromkeys(members, 0)
        while cursors:
            answers = self.ask(("SSCAN", key, at, "COUNT", MANY) for key, at in cursors.items())
            for key, (_, page) in zip(cursors, answers, strict=True):
                members[key] += texts(page)
            cursors = {
                key: int(cursor)
                for key, (cursor, _) in zip(cursors, answers, strict=True)
                if int(cursor)
            }
        return {key: list(dict.fromkeys(names)) for key, names in members.items()}

    def in_order(self, *name: str, start: int = 0) -> Iterator[str]:
        """The members of a sorted set by score. If it changes meanwhile, a member can come twice
        or not at all.
        """
        for at in counting(start, PAGE):
            page = texts(self.ask_one("ZRANGE", self.keys(*name), at, at + PAGE - 1))
            yield from page
            if len(page) < PAGE:
                return

    def in_order_of(self, name: str, ids: Iterable[str]) -> Iterator[str]:
        """The members of one sorted set after the other. Short sets share a round trip."""
        for page in pages(ids):
            heads = self.ask(("ZRANGE", self.keys(name, key_id), 0, PAGE - 1) for key_id in page)
            for key_id, head in zip(page, heads, strict=True):
                yield from texts(head)
                if len(head) == PAGE:
                    yield from self.in_order(name, key_id, start=PAGE)


def scan_keys(
    client: redis.Redis, keys: Keys, pattern: str, count: int = MANY
) -> Iterator[list[str]]:
    """The matching keys below the broker's prefix, in batches. A key can come twice."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in keys.queue_prefix)
    cursor = 0
    while True:
        cursor, names = cast("Any", client.scan(cursor, match=escaped + pattern, count=count))
        yield text(names)
        if not cursor:
            return


def pages(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in pages. One round trip reads a page."""
    items = iter(items)
    while page := list(islice(items, PAGE)):
        yield page
