"""Reads values in Redis that may be unreadable.

Any program with write access can write any value into the scheduler's keys. An unreadable value is
reported and does not raise, so the rest of the record and all other records are still read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import redis
from redis.exceptions import ResponseError

from .field_types import MAX_JSON, MAX_OFFERS, MAX_TIME, RESOURCES

Command = tuple[str | bytes | int, ...]

_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_MOST_DEPTH = 100  # of JSON that Python surely reads and writes
_MOST_SHOWN = 40  # characters of an unreadable value

#: The answers for a key that does not exist, by command. Other commands answer ``None``.
_EMPTY: dict[str, Any] = {
    **dict.fromkeys(("ZCARD", "SCARD", "HLEN", "LLEN", "SISMEMBER", "HEXISTS"), 0),
    **dict.fromkeys(("ZRANGE", "LRANGE", "XRANGE", "XREVRANGE"), ()),
    **dict.fromkeys(("SSCAN", "ZSCAN"), (0, ())),
    "HSCAN": (0, MappingProxyType({})),
    "HGETALL": MappingProxyType({}),
}


def is_wrong_type(answer: object) -> bool:
    """Is the answer the error for a key of the wrong type?"""
    return isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE")


def empty_answer(command: Command) -> Any:
    """The command's answer for a key that does not exist."""
    name, _, *args = (part.decode() if isinstance(part, bytes) else part for part in command)
    return [None] * len(args) if name == "HMGET" else _EMPTY.get(str(name))


def ask_each(
    client: redis.Redis, commands: Iterable[Command], *, is_atomic: bool = False
) -> list[Any]:
    """The answers to the commands, in one round trip.

    For a key of the wrong type the answer is redis-py's error. Other errors are raised.
    """
    with client.pipeline(transaction=is_atomic) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not is_wrong_type(answer):
            raise answer
    return answers


def ask(client: redis.Redis, commands: Iterable[Command]) -> list[Any]:
    """The answers to the commands. A key of the wrong type reads as a missing key.

    ``minsched check`` reports such a key.
    """
    commands = list(commands)
    answers = ask_each(client, commands)
    return [
        empty_answer(command) if is_wrong_type(answer) else answer
        for command, answer in zip(commands, answers, strict=True)
    ]


def integer(value: str | None) -> int | None:
    """The integer, or ``None`` for another text, and for one too large for Lua to hold exactly."""
    if value is None or not _INTEGER.fullmatch(value):
        return None
    return number if abs(number := int(value)) <= MAX_TIME else None


def count_of(value: str | None) -> int:
    """A counter's value, or 0 if it is unreadable."""
    return integer(value) or 0


class Fields:
    """Reads the fields of one record, and records the unreadable ones."""

    def __init__(self, record: Mapping[str, str | None]) -> None:
        self._record = record
        self._faults: dict[str, str] = {}  # the first of each field

    @property
    def broken(self) -> str:
        """The unreadable fields in words, or "" for none."""
        return ", ".join(self._faults.values())

    def text(self, name: str) -> str:
        """Any text."""
        return self._record.get(name) or ""

    def integer(self, name: str, least: int = 0, most: int = MAX_TIME) -> int:
        """An integer, or 0 for a missing or unreadable field."""
        value = self._record.get(name)
        number = integer(value or "0")
        if number is None or (value and not least <= number <= most):
            self._record_fault(name, f"not an integer from {least}")
            return 0
        return number

    def number(self, name: str) -> None:
        """Check a number with which Lua can calculate."""
        value = self._record.get(name) or "0"
        if not (_NUMBER.fullmatch(value) and abs(float(value)) <= MAX_TIME):
            self._record_fault(name, "not a number")

    def one_of(self, name: str, words: Collection[str]) -> str:
        """One of the words, or "" for a missing or unreadable field."""
        value = self.text(name)
        if value and value not in words:
            self._record_fault(name, f"not one of {', '.join(words)}")
            return ""
        return value

    def json(self, name: str, kind: type | None = None) -> Any:
        """The value of a JSON text of this type, or ``None`` for an unreadable text."""
        text = self.text(name)
        try:
            value = _json(text) if text else None
        except ValueError:
            self._record_fault(name, "not JSON")
            return None
        if text and not isinstance(value, kind or object):
            self._record_fault(name, "not a JSON object")
            return None
        return value

    def load(self) -> dict[str, Any]:
        """The object in ``load_json``. Its cpu, gpu and mem are numbers."""
        load: dict[str, Any] = self.json("load_json", dict) or {}
        if _depth(self.text("load_json")) > _MOST_DEPTH:
            self._record_fault("load_json", "too deeply nested")
            return {}
        for part in RESOURCES:
            value = load.get(part)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and abs(value) <= MAX_TIME):
                self._record_fault("load_json", f"not a load: {part} is not a number")
                return {}
        return load

    def indexes(self, name: str) -> frozenset[tuple[str, str]]:
        """The pairs of a text with a pool, a tab and a capability or language pair in each line."""
        lines = [line for line in self.text(name).split("\n") if line]
        pairs = [line.split("\t") for line in lines[: MAX_OFFERS + 1]]
        if len(pairs) > MAX_OFFERS:
            self._record_fault(name, f"longer than {MAX_OFFERS} lines")
        elif any(len(pair) != 2 or not pair[0] for pair in pairs):
            self._record_fault(name, "not lines of a pool, a tab and a name")
        return frozenset((pair[0], pair[1]) for pair in pairs[:MAX_OFFERS] if len(pair) == 2)

    def missing(self, name: str) -> None:
        """Record a fault if the field is missing."""
        if self._record.get(name) is None:
            self._faults.setdefault(name, f"{name} is missing")

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        """A text that matches the pattern, or "" for another text."""
        value = self.text(name)
        if value and not pattern.fullmatch(value):
            self._record_fault(name, "unreadable")
            return ""
        return value

    def _record_fault(self, name: str, fault: str) -> None:
        """Record a fault, if it is the first one of the field."""
        value = self.text(name)
        shown = repr(value[:_MOST_SHOWN]) + ("…" if len(value) > _MOST_SHOWN else "")
        self._faults.setdefault(name, f"{name} is {fault}: {shown}")


def _json(text: str) -> Any:
    """The value. Raises ``ValueError`` if Python cannot read it, or cannot write it again."""
    if len(text) > MAX_JSON:
        raise ValueError("too long")
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:  # may be a lone surrogate, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise ValueError("too deep") from exc
    return value


@lru_cache(maxsize=1024)  # most payloads are the name of one of few tasks
def is_json(text: str) -> bool:
    """Is it readable JSON?"""
    try:
        _json(text)
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _depth(text: str) -> int:
    """The largest number of open brackets. Brackets in strings count too."""
    if text.count("[") + text.count("{") <= _MOST_DEPTH:
        return 0
    depth = most = 0
    for bracket in re.findall(r"[][{}]", text):
        depth += 1 if bracket in "[{" else -1
        most = max(most, depth)
    return most
