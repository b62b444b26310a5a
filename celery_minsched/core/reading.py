"""Reads Redis in pages, a bounded number of keys at a time, so that no look holds it up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import count as counting
from itertools import islice
from typing import Any, TypeVar, cast

import redis

from .keys import Keys
from .scripts import text
from .stored import Command, ask

T = TypeVar("T")

PAGE = 100  # keys read in one round trip: Redis does all of it in one go
MANY = 500  # names in one answer of a SCAN


class Reader:
    """Reads the scheduler's keys. Nothing here changes one."""

    def __init__(self, redis: redis.Redis, keys: Keys) -> None:
        self.redis = self._redis = redis
        self.keys = self._keys = keys

    def _ask(self, commands: Iterable[Command]) -> list[Any]:
        """The answers to commands, each of which is cheap."""
        answers: list[Any] = []
        for page in pages(commands):
            answers += ask(self._redis, page)
        return answers

    def _ask_one(self, *command: str | int) -> Any:
        """The answer to a command."""
        return ask(self._redis, [command])[0]

    def _items(self, command: str, name: str) -> Iterator[tuple[str, Any]]:
        """The members of a sorted set (``ZSCAN``) or the fields of a hash (``HSCAN``).

        Each comes with its score or value; some of them twice.
        """
        cursor = 0
        while True:
            cursor, found = self._ask_one(command, self._keys(name), cursor, "COUNT", MANY)
            for member, value in found.items() if isinstance(found, Mapping) else found:
                yield text_of(member), value
            if not int(cursor):
                return

    def _scan(self, key: str) -> list[str]:
        """The members of a set, each once."""
        return self._scan_all([key])[key]

    def _scan_all(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """The members of each of these sets; one round trip for a page of small ones."""
        found: dict[str, list[str]] = {key: [] for key in keys}
        cursors = dict.fromkeys(found, 0)
        while cursors:
            answers = self._ask(("SSCAN", key, at, "COUNT", MANY) for key, at in cursors.items())
            for key, (_, members) in zip(cursors, answers, strict=True):
                found[key] += texts(members)
            cursors = {
                key: int(cursor)
                for key, (cursor, _) in zip(cursors, answers, strict=True)
                if int(cursor)
            }
        return {key: list(dict.fromkeys(members)) for key, members in found.items()}

    def _in_order(self, *name: str, start: int = 0) -> Iterator[str]:
        """The members of a sorted set. If it changes meanwhile, one may come twice or never."""
        for at in counting(start, PAGE):
            page = texts(self._ask_one("ZRANGE", self._keys(*name), at, at + PAGE - 1))
            yield from page
            if len(page) < PAGE:
                return

    def _in_order_all(self, name: str, ids: Iterable[str]) -> Iterator[str]:
        """Of one sorted set after the other; one round trip for a page of short ones."""
        for page in pages(ids):
            heads = self._ask(("ZRANGE", self._keys(name, one), 0, PAGE - 1) for one in page)
            for one, head in zip(page, heads, strict=True):
                yield from texts(head)
                if len(head) == PAGE:
                    yield from self._in_order(name, one, start=PAGE)


def scan_keys(
    client: redis.Redis, keys: Keys, pattern: str, count: int = MANY
) -> Iterator[list[str]]:
    """The keys below the broker's prefix that match, in batches; some of them twice."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in keys.queue_prefix)
    cursor = 0
    while True:
        cursor, names = cast("Any", client.scan(cursor, match=escaped + pattern, count=count))
        yield text(names)
        if not cursor:
            return


def pages(items: Iterable[T]) -> Iterator[list[T]]:
    """The items, so many at a time as are read in one round trip."""
    items = iter(items)
    while page := list(islice(items, PAGE)):
        yield page


def text_of(value: object) -> str:
    """An answer as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def text_or_none(value: object) -> str | None:
    """An answer as text, or that there is none."""
    return None if value is None else text_of(value)


def texts(values: object) -> list[str]:
    """Answers as texts."""
    return [text_of(value) for value in cast("list[object]", values)]


def record_of(answer: object) -> dict[str, str]:
    """A hash as texts."""
    return {text_of(k): text_of(v) for k, v in cast("dict[object, object]", answer).items()}


def numbers_of(answer: object) -> dict[str, int]:
    """The whole numbers in a hash. What a program has put there instead is left out."""
    return {name: int(value) for name, value in record_of(answer).items() if is_number(value)}


def is_number(text: str) -> bool:
    """Is it a whole number, as Redis writes it?"""
    return re.fullmatch(r"-?[0-9]{1,19}", text) is not None
