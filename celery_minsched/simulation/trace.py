"""Jobs to try a fleet with: those of a trace, or of one that is made up."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """Arrives ``at`` seconds after the first, for a node of ``pool``; takes ``work`` seconds.

    Of a ``session``, if it is of one.
    """

    at: float
    work: float
    pool: str
    session: str = ""


@dataclass(frozen=True)
class Node:
    """A node, and how many jobs it does at a time."""

    name: str
    slots: int
    pools: tuple[str, ...]


def read(path: Path) -> list[tuple[float, float]]:
    """Seconds and tokens of each request of an Azure LLM inference trace (2023)."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            (
                # Seven digits of a second's fraction; Python reads six.
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                float(row["ContextTokens"]) + float(row["GeneratedTokens"]),
            )
            for row in csv.DictReader(file)
        ]


def synthesize(requests: int) -> list[tuple[float, float]]:
    """Requests of the same shape as that trace's conversations: the rate changes from minute to
    minute and from second to second, the sizes are spread over two orders of magnitude.
    """
    chance = random.Random(2023)
    now, rate, until = 0.0, 0.0, 0.0
    made = []
    for _ in range(requests):
        if now >= until:
            rate, until = 5.5 * chance.lognormvariate(-0.03, 0.25), now + chance.uniform(5, 60)
        now += chance.expovariate(rate)
        made.append((now, min(chance.lognormvariate(6.9, 0.8), 14_000.0)))
    return made


def repeat(requests: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """The first so many requests, of a trace that begins anew whenever it is over."""
    first, last = requests[0][0], requests[-1][0]
    period = (last - first) * len(requests) / max(len(requests) - 1, 1)
    return [
        (at + period * (number // len(requests)), tokens)
        for number in range(count)
        for at, tokens in (requests[number % len(requests)],)
    ]


def jobs_of(
    requests: Sequence[tuple[float, float]],
    seconds: float,
    work: float,
    shares: Mapping[str, float],
) -> list[Job]:
    """The requests as jobs that arrive within so many seconds.

    ``work`` is the mean of a job, in seconds; each takes time as it has tokens. ``shares`` says
    how the jobs divide into pools.
    """
    first = requests[0][0]
    faster = (requests[-1][0] - first) / seconds
    second = work * len(requests) / sum(tokens for _, tokens in requests)
    chance = random.Random(len(requests))
    pools = chance.choices(list(shares), list(shares.values()), k=len(requests))
    return [
        Job((at - first) / faster, tokens * second, pool)
        for (at, tokens), pool in zip(requests, pools, strict=True)
    ]
