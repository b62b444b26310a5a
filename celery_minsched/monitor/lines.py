"""Reads lines of waiting jobs: which lines there are, how many jobs wait in them, and since when.

Totals come from ``waiting_counts``, a hash with few fields, and never from a walk over the lines. A
read of the lines is limited to :data:`MOST_LINES`, unless its caller gives another limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from ..core.reading import MANY, Reader
from ..core.stored import count_of
from ..core.texts import numbers_of, text_of, text_or_none, texts
from .models import LineView
from .possible import possible_demands

#: The most lines that a command, a scrape or a page reads.
MOST_LINES = 1000

#: The most steps of a search among the names of lines, and the names that Redis compares in a step.
MOST_STEPS, STEP = 100, 1000


class LineName(NamedTuple):
    """The demand of the jobs in a line."""

    pool_selector: str
    capabilities: tuple[str, ...]
    required_node: str


def parse_line(name: str) -> LineName:
    """The parts of a line's name, "selector/capabilities/required node"."""
    pool_selector, _, others = name.partition("/")
    capabilities, _, required_node = others.partition("/")
    names = tuple(name for name in capabilities.split(",") if name)
    return LineName(pool_selector, names, required_node)


def job_of_entry(queue_entry: str) -> str:
    """The job id in a line's entry, "place job"."""
    return queue_entry.partition(" ")[2]


def waiting_counts(reader: Reader) -> dict[str, int]:
    """The number of jobs in line by pool selector."""
    return numbers_of(dict(reader.items("HSCAN", "waiting_counts")))


def line_count(reader: Reader) -> int:
    """The number of lines."""
    return int(reader.ask_one("HLEN", reader.keys("lines")))


def line_names(reader: Reader, find: str = "", limit: int | None = None) -> Iterator[str]:
    """The names of lines, each once. A search with ``limit`` also ends after MOST_STEPS."""
    words = [word for word in find.casefold().replace(",", " ").split() if word]
    match = _glob(max(words, key=len)) if words else None
    seen: set[str] = set()
    cursor, step = 0, 0
    while limit is None or (len(seen) < limit and not (words and step == MOST_STEPS)):
        count = STEP if words else min(limit or MANY, MANY)
        search = ("MATCH", match) if match else ()
        key = reader.keys("lines")
        cursor, page = reader.ask_one("HSCAN", key, cursor, *search, "COUNT", count)
        step += 1
        names = [
            name
            for name in sorted(map(text_of, page))
            if name not in seen and all(word in name.casefold() for word in words)
        ]
        seen.update(names)
        yield from names
        if not cursor:
            return


def lines(reader: Reader, limit: int | None = None, find: str = "") -> list[LineView]:
    """All lines, sorted by name. With ``limit``, the lines that Redis returns first.

    With ``find``, only lines whose names contain all its words.
    """
    return read_lines(reader, sorted(islice(line_names(reader, find, limit), limit)))


def read_lines(reader: Reader, names: list[str]) -> list[LineView]:
    """The lines of these names."""
    keys = [reader.keys("waiting", name) for name in names]
    sizes = reader.ask(("ZCARD", key) for key in keys)
    heads = reader.ask(("ZRANGE", key, 0, 0) for key in keys)
    job_ids = [job_of_entry(text_of(head[0])) if head else "" for head in heads]
    since = reader.ask(("HGET", reader.keys("job", job_id), "waiting_ts") for job_id in job_ids)
    parsed = [parse_line(name) for name in names]
    possible = possible_demands(
        reader, ((line.pool_selector, line.capabilities) for line in parsed)
    )
    return [
        LineView(
            name=name,
            where=line.pool_selector,
            capabilities=list(line.capabilities),
            required_node=line.required_node,
            waiting=waiting,
            possible=(line.pool_selector, line.capabilities) in possible,
            oldest_ts=count_of(text_or_none(oldest_ts)),
        )
        for name, line, waiting, oldest_ts in zip(names, parsed, sizes, since, strict=True)
    ]


def job_ids_in(reader: Reader, line: str) -> Iterator[str]:
    """The ids of the jobs of a line in their order."""
    return map(job_of_entry, reader.in_order("waiting", line))


def first_job_ids(reader: Reader, names: Iterable[str], limits: Iterable[int]) -> list[list[str]]:
    """The ids of the first jobs of each line in their order, with a limit for each line."""
    answers = reader.ask(
        ("ZRANGE", reader.keys("waiting", name), *((0, limit - 1) if limit else (1, 0)))
        for name, limit in zip(names, limits, strict=True)
    )
    return [list(map(job_of_entry, texts(answer))) for answer in answers]


def _glob(word: str) -> str:
    """A Redis pattern for names that contain the word, in upper or lower case."""
    letters = (
        f"[{char.lower()}{char.upper()}]"
        if char.isascii() and char.isalpha()
        else f"\\{char}"
        if char in "*?[]\\"
        else char
        for char in word
    )
    return f"*{''.join(letters)}*"
