"""Questions about the lines of waiting jobs: how many jobs, in which lines, and for how long.

Totals come from ``waiting_counts``, which has few fields, and never from a walk over the lines. A
look at lines takes a bounded number of them, :data:`MOST_LINES`, unless its caller says otherwise.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from ..core.reading import MANY, numbers_of, text_of, text_or_none, texts
from ..core.stored import count_of
from .models import LineView
from .possible import PossibleViews, parse_where

#: Lines that one look of a command, of the exporter or of a page reads, however many there are.
MOST_LINES = 1000

#: Steps of a search among the names of lines, and how many names Redis compares in a step.
MOST_STEPS, STEP = 100, 1000

#: Language pairs that no pool with nodes serves: for so many of them a look asks Redis for pools.
MOST_PAIRS = 1000


class LineViews(PossibleViews):
    """Questions about lines."""

    def waiting_counts(self) -> dict[str, int]:
        """The number of jobs in line, by what a line's name begins with: ``asr``, ``zh:en``."""
        return numbers_of(dict(self._items("HSCAN", "waiting_counts")))

    def waiting_count(self) -> int:
        """The number of jobs in line."""
        return sum(self.waiting_counts().values())

    def line_count(self) -> int:
        """The number of lines."""
        return int(self._ask_one("HLEN", self._keys("lines")))

    def lines(self, limit: int | None = None, find: str = "") -> list[LineView]:
        """All lines, by name; or ``limit`` of them, the first that Redis finds.

        With ``find``, those whose names have all its words.
        """
        return self._lines_of(sorted(islice(self.line_names(find, limit), limit)))

    def line(self, name: str) -> LineView:
        """A line by its name, "where/capabilities/required node"."""
        return self._lines_of([name])[0]

    def line_names(self, find: str = "", limit: int | None = None) -> Iterator[str]:
        """The names of lines, each once. A limited search ends after MOST_STEPS, too."""
        words = [word for word in find.casefold().replace(",", " ").split() if word]
        match = _glob(max(words, key=len)) if words else None
        seen: set[str] = set()
        cursor, step = 0, 0
        while limit is None or (len(seen) < limit and not (words and step == MOST_STEPS)):
            count = STEP if words else min(limit or MANY, MANY)
            search = ("MATCH", match) if match else ()
            cursor, page = self._ask_one(
                "HSCAN", self._keys("lines"), cursor, *search, "COUNT", count
            )
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

    def _lines_of(self, names: list[str]) -> list[LineView]:
        keys = [self._keys("waiting", name) for name in names]
        sizes = self._ask(("ZCARD", key) for key in keys)
        heads = self._ask(("ZRANGE", key, 0, 0) for key in keys)
        jobs = [text_of(head[0]).partition(" ")[2] if head else "" for head in heads]
        since = self._ask(("HGET", self._keys("job", job), "waiting_ts") for job in jobs)
        parsed = [parse_line(name) for name in names]
        possible = self.possible((where, caps) for where, caps, _ in parsed)
        return [
            LineView(
                name=name,
                where=where,
                capabilities=list(caps),
                required_node=required,
                waiting=waiting,
                possible=(where, caps) in possible,
                oldest_ts=count_of(text_or_none(oldest_ts)),
            )
            for name, (where, caps, required), waiting, oldest_ts in zip(
                names, parsed, sizes, since, strict=True
            )
        ]

    def waiting_in(self, line: str) -> Iterator[str]:
        """The ids of the jobs of a line, in their order."""
        for ticket in self._in_order("waiting", line):
            yield ticket.partition(" ")[2]

    def first_in_lines(self, names: Iterable[str], limits: Iterable[int]) -> list[list[str]]:
        """The ids of the first jobs of each of these lines, in their order."""
        answers = self._ask(
            ("ZRANGE", self._keys("waiting", name), *((0, limit - 1) if limit else (1, 0)))
            for name, limit in zip(names, limits, strict=True)
        )
        return [[ticket.partition(" ")[2] for ticket in texts(answer)] for answer in answers]

    def waiting_by_pool(
        self, counts: Mapping[str, int], langs: Mapping[str, Iterable[str]]
    ) -> Counter[str]:
        """The number of jobs in line that each pool could serve; a job of several counts in each.

        ``counts`` are the waiting counts. ``langs`` has the language pairs of the pools with nodes.
        """
        serving: dict[str, set[str]] = defaultdict(set)
        for pool, pairs in langs.items():
            for pair in pairs:
                serving[pair].add(pool)
        waiting: Counter[str] = Counter()
        unserved: dict[str, int] = {}
        for where, number in counts.items():
            pool, pairs = parse_where(where)
            if pool in langs and pairs:
                is_served = not langs[pool] or any(pool in serving[pair] for pair in pairs)
                waiting[pool] += number if is_served else 0
            elif pool and not pairs:
                waiting[pool] += number
            elif not pool and pairs[0] in serving:
                waiting.update(dict.fromkeys(serving[pairs[0]], number))
            else:
                unserved[where] = number
        most = sorted(unserved, key=lambda where: -unserved[where])[:MOST_PAIRS]
        for where, pools in self.pools_of_all(most).items():
            waiting.update(dict.fromkeys(pools, unserved[where]))
        return waiting


def parse_line(name: str) -> tuple[str, tuple[str, ...], str]:
    """What a line waits for: where, the capabilities, and the node that it requires."""
    where, _, others = name.partition("/")
    capabilities, _, required = others.partition("/")
    return where, tuple(cap for cap in capabilities.split(",") if cap), required


def _glob(word: str) -> str:
    """A pattern of Redis for names that have the word, in capitals or not."""
    letters = (
        f"[{char.lower()}{char.upper()}]"
        if char.isascii() and char.isalpha()
        else f"\\{char}"
        if char in "*?[]\\"
        else char
        for char in word
    )
    return f"*{''.join(letters)}*"
