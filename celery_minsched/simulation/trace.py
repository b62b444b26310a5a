"""The jobs of a simulation, from a trace file or generated."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A job that arrives ``at`` seconds after the first job and works for ``work`` seconds."""

    at: float
    work: float
    pool: str
    session: str = ""


@dataclass(frozen=True)
class Node:
    """A node with its slots and pools."""

    name: str
    slots: int
    pools: tuple[str, ...]


def read(path: Path) -> list[tuple[float, float]]:
    """Time in seconds and tokens of each request in an Azure LLM inference trace (2023)."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            (
                # The file has seven digits after the second. Python reads six.
                datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                float(row["ContextTokens"]) + float(row["GeneratedTokens"]),
            )
            for row in csv.DictReader(file)
        ]


def synthesize(requests: int) -> list[tuple[float, float]]:
    """Generate requests like those of the trace's conversations.

    The rate changes from minute to minute and from second to second. The sizes differ by up to two
    orders of magnitude.
    """
    random_ = random.Random(2023)
    now, rate, until = 0.0, 0.0, 0.0
    generated = []
    for _ in range(requests):
        if now >= until:
            rate, until = 5.5 * random_.lognormvariate(-0.03, 0.25), now + random_.uniform(5, 60)
        now += random_.expovariate(rate)
        generated.append((now, min(random_.lognormvariate(6.9, 0.8), 14_000.0)))
    return generated


def repeat(requests: Sequence[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """The first ``count`` requests of the trace, which repeats if it is too short."""
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
    """The requests as jobs that arrive within ``seconds``.

    ``work`` is the mean work of a job in seconds. The work of a job is proportional to its tokens.
    ``shares`` has the relative number of jobs of each pool.
    """
    first = requests[0][0]
    speedup = (requests[-1][0] - first) / seconds
    seconds_per_token = work * len(requests) / sum(tokens for _, tokens in requests)
    random_ = random.Random(len(requests))
    pools = random_.choices(list(shares), list(shares.values()), k=len(requests))
    return [
        Job((at - first) / speedup, tokens * seconds_per_token, pool)
        for (at, tokens), pool in zip(requests, pools, strict=True)
    ]
