"""Reads what is stored in Redis, whatever it is.

Each program that may write the scheduler's keys may write anything into them. An unreadable value
is named and never raised: the rest of the record is still read, and all other records are too.
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

from .field_types import MAX_JSON, MAX_OFFERS, MAX_TIME

Command = tuple[str | bytes | int, ...]

_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_MOST_DEPTH = 100  # of JSON: Python reads and writes no deeper one for sure
_MOST_SHOWN = 40  # characters of an unreadable value

#: What a command answers for a key that does not exist, by its name. Others answer ``None``.
_EMPTY: dict[str, Any] = {
    **dict.fromkeys(("ZCARD", "SCARD", "HLEN", "LLEN", "SISMEMBER", "HEXISTS"), 0),
    **dict.fromkeys(("ZRANGE", "LRANGE", "XRANGE", "XREVRANGE"), ()),
    **dict.fromkeys(("SSCAN", "ZSCAN"), (0, ())),
    "HSCAN": (0, MappingProxyType({})),
    "HGETALL": MappingProxyType({}),
}


def is_wrong_type(answer: object) -> bool:
    """Is the key of another type than the command is for?"""
    return isinstance(answer, ResponseError) and str(answer).startswith("WRONGTYPE")


def empty_answer(command: Command) -> Any:
    """The command's answer for a key that does not exist."""
    name, _, *args = (part.decode() if isinstance(part, bytes) else part for part in command)
    return [None] * len(args) if name == "HMGET" else _EMPTY.get(str(name))


def ask_each(
    client: redis.Redis, commands: Iterable[Command], *, is_atomic: bool = False
) -> list[Any]:
    """The answers to the commands, in one round trip. For a key of the wrong type it is redis-py's
    error, which is not raised.
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
    """The answers to the commands. A key of the wrong type reads as a missing key, and ``check``
    names it.
    """
    commands = list(commands)
    answers = ask_each(client, commands)
    return [
        empty_answer(command) if is_wrong_type(answer) else answer
        for command, answer in zip(commands, answers, strict=True)
    ]


def integer(value: str | None) -> int | None:
    """The integer, ``None`` for a text that is none or is larger than Lua holds exactly."""
    if value is None or not _INTEGER.fullmatch(value):
        return None
    return number if abs(number := int(value)) <= MAX_TIME else None


def count_of(value: str | None) -> int:
    """A counter's value, 0 for an unreadable one."""
    return integer(value) or 0


class Fields:
    """Reads the fields of one record, and notes those that cannot be read."""

    def __init__(self, record: Mapping[str, str | None]) -> None:
        self._record = record
        self._faults: dict[str, str] = {}  # the first of each field

    @property
    def broken(self) -> str:
        """What cannot be read, in words; "" if everything can."""
        return ", ".join(self._faults.values())

    def text(self, name: str) -> str:
        """Any text."""
        return self._record.get(name) or ""

    def integer(self, name: str, least: int = 0, most: int = MAX_TIME) -> int:
        """An integer; 0 for a field that does not exist, or cannot be read."""
        value = self._record.get(name)
        number = integer(value or "0")
        if number is None or (value and not least <= number <= most):
            self._note(name, f"no integer from {least}")
            return 0
        return number

    def number(self, name: str) -> None:
        """Any number that Lua can calculate with."""
        value = self._record.get(name) or "0"
        if not (_NUMBER.fullmatch(value) and abs(float(value)) <= MAX_TIME):
            self._note(name, "no number")

    def one_of(self, name: str, words: Collection[str]) -> str:
        """One of the words; "" for a field that does not exist, or cannot be read."""
        value = self.text(name)
        if value and value not in words:
            self._note(name, f"none of {', '.join(words)}")
            return ""
        return value

    def json(self, name: str, kind: type | None = None) -> Any:
        """The value of a JSON text, of a type if one is given; ``None`` for an unreadable one."""
        text = self.text(name)
        try:
            value = _json(text) if text else None
        except ValueError:
            self._note(name, "no JSON")
            return None
        if text and not isinstance(value, kind or object):
            self._note(name, "no JSON object")
            return None
        return value

    def load(self) -> dict[str, Any]:
        """``load_json``, in which cpu, gpu and mem are numbers."""
        load: dict[str, Any] = self.json("load_json", dict) or {}
        if _depth(self.text("load_json")) > _MOST_DEPTH:
            self._note("load_json", "too deep")
            return {}
        for part in ("cpu", "gpu", "mem"):
            value = load.get(part)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (is_number and abs(value) <= MAX_TIME):
                self._note("load_json", f"no load: {part} is no number")
                return {}
        return load

    def indexes(self, name: str) -> frozenset[tuple[str, str]]:
        """A pool and a capability, or a language pair, in each line."""
        lines = [line for line in self.text(name).split("\n") if line]
        found = [line.split("\t") for line in lines[: MAX_OFFERS + 1]]
        if len(found) > MAX_OFFERS:
            self._note(name, f"more than {MAX_OFFERS} lines")
        elif any(len(pair) != 2 or not pair[0] for pair in found):
            self._note(name, "not lines of a pool, a tab and a name")
        return frozenset((pair[0], pair[1]) for pair in found[:MAX_OFFERS] if len(pair) == 2)

    def missing(self, name: str) -> None:
        """Note that a field is needed and does not exist."""
        if self._record.get(name) is None:
            self._faults.setdefault(name, f"{name} is missing")

    def matching(self, name: str, pattern: re.Pattern[str]) -> str:
        """A text of this form; "" for another."""
        value = self.text(name)
        if value and not pattern.fullmatch(value):
            self._note(name, "unreadable")
            return ""
        return value

    def _note(self, name: str, what: str) -> None:
        """Note a fault of a field, if it is the first of this field."""
        value = self.text(name)
        shown = repr(value[:_MOST_SHOWN]) + ("…" if len(value) > _MOST_SHOWN else "")
        self._faults.setdefault(name, f"{name} is {what}: {shown}")


def _json(text: str) -> Any:
    """The value. Raises ``ValueError`` for one that cannot be read, or not be written again."""
    if len(text) > MAX_JSON:
        raise ValueError("too long")
    try:
        value = json.loads(text, parse_constant=_no_constant)
        if "\\u" in text:  # maybe a lone surrogate, which is in no UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise ValueError("too deep") from exc
    return value


@lru_cache(maxsize=1024)  # most payloads name one of few tasks
def is_json(text: str) -> bool:
    """Is it JSON that can be read?"""
    try:
        _json(text)
    except ValueError:
        return False
    return True


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _depth(text: str) -> int:
    """The most brackets that are open at once; those in strings count, too."""
    if text.count("[") + text.count("{") <= _MOST_DEPTH:
        return 0
    depth = most = 0
    for bracket in re.findall(r"[][{}]", text):
        depth += 1 if bracket in "[{" else -1
        most = max(most, depth)
    return most
