"""How much longer does ``apply_async`` take than in plain Celery?

One process makes one call after the other. The kinds of calls are: plain Celery, and
celery_minsched with a placed task, a sticky task and a waiting task. Results are ignored, so a call
only publishes. The kinds of calls take turns, and a ratio compares two kinds in the same round. No
worker runs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from statistics import median
from typing import Any, NamedTuple

import click
from celery import Celery

from benchmarks.bench_bulk import applications
from benchmarks.common import Figure, check, p99, print_machine, print_table
from celery_minsched import MinSched, RegisterNodeRequest
from tests.support.server import Server

PLAIN = "plain Celery"
NODES, SLOTS = 10, 4000
SESSIONS = 100


class Round(NamedTuple):
    """The times of calls in ms."""

    p50: float
    p99: float


def ways(ours: Celery, plain: Celery) -> dict[str, Callable[[int], Any]]:
    """Functions that make a call, by name. They take the number of the call."""

    def task(app: Celery, **options: object) -> Any:
        def work(number: int) -> None: ...

        return app.task(name="apply.work", shared=False, ignore_result=True, **options)(work)

    simple, demanding = task(plain), task(ours, minsched={"pool": "asr"})

    def sticky(number: int) -> None:
        demanding.apply_async((number,), minsched={"session_id": f"u{number % SESSIONS}"})

    return {
        PLAIN: lambda number: simple.apply_async((number,)),
        "placed": lambda number: demanding.apply_async((number,)),
        "sticky": sticky,
        "waiting": lambda number: demanding.apply_async((number,)),
    }


def prepare(plugin: MinSched, slots: int) -> None:
    """Empty the server and register the nodes."""
    scheduler = plugin.scheduler
    scheduler.redis.flushall()
    for number in range(NODES):
        scheduler.register_node(
            RegisterNodeRequest(node_id=f"node-{number}", max_jobs=slots, pools_json='["asr"]')
        )


def measure(call: Callable[[int], Any], calls: int) -> Round:
    """Measure one round. It starts with calls that are not counted."""
    for number in range(max(calls // 10, SESSIONS)):
        call(number)
    times = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - began) * 1000)
    return Round(median(times), p99(times))


@click.command()
@click.option("--calls", default=500, type=click.IntRange(2), help="Calls in a round.")
@click.option("--rounds", default=15, help="Rounds of each kind.")
def main(calls: int, rounds: int) -> None:
    """Measure the time of an apply_async in ms."""
    print_machine()
    print_rounds(measure_all(calls, rounds), calls)


def measure_all(calls: int, rounds: int) -> dict[str, list[Round]]:
    """The rounds of each way. The ways take turns."""
    rounds_of: defaultdict[str, list[Round]] = defaultdict(list)
    with closing(Server()) as server, applications(server.port) as (ours, plain):
        for name, call in [*ways(ours, plain).items()] * rounds:
            prepare(ours.minsched, slots=1 if name == "waiting" else SLOTS)
            rounds_of[name].append(measure(call, calls))
            check(ours.minsched.views)
    return rounds_of


def ratio(
    name: str, rounds_of: Mapping[str, Sequence[Round]], figure: Callable[[Round], float]
) -> Figure:
    """A way's figure divided by plain Celery's, round by round."""
    pairs = zip(rounds_of[name], rounds_of[PLAIN], strict=True)
    return Figure.of([figure(measured) / figure(plain) for measured, plain in pairs])


def print_rounds(rounds_of: Mapping[str, Sequence[Round]], calls: int) -> None:
    """Print a row for each way."""
    print_table(
        f"{calls:,} calls a round; ms a call: median (middle half of the rounds)",
        ["", "p50", "ratio to plain", "p99", "ratio to plain"],
        [[name, *_row(name, rounds_of)] for name in rounds_of],
    )


def _row(name: str, rounds_of: Mapping[str, Sequence[Round]]) -> list[Figure]:
    return [
        Figure.of([measured.p50 for measured in rounds_of[name]]),
        ratio(name, rounds_of, lambda measured: measured.p50),
        Figure.of([measured.p99 for measured in rounds_of[name]]),
        ratio(name, rounds_of, lambda measured: measured.p99),
    ]


if __name__ == "__main__":
    main()
