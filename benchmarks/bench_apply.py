"""How much longer than plain Celery's does an ``apply_async`` take?

One process, one call after the other, on a server beside it: plain Celery's, and ours for a task
that is placed at once, one that goes where its session was, and one that waits. The results are
ignored, so that a call is the publish and nothing else. The ways take turns, and ratios are of the
same round. No worker runs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import click
from celery import Celery

from benchmarks.bench_bulk import applications
from benchmarks.common import Figure, machine, p99, print_table, say
from celery_minsched import MinSched, RegisterNodeRequest
from tests.support.server import Server

NODES, SLOTS = 10, 4000
SESSIONS = 100


class Round(NamedTuple):
    """Milliseconds a call."""

    p50: float
    p99: float


def ways(ours: Celery, plain: Celery) -> dict[str, Callable[[int], Any]]:
    """By name, what makes the call of a number."""

    def task(app: Celery, **options: object) -> Any:
        def work(number: int) -> None: ...

        return app.task(name="apply.work", shared=False, ignore_result=True, **options)(work)

    simple, demanding = task(plain), task(ours, minsched={"pool": "asr"})

    def sticky(number: int) -> None:
        demanding.apply_async((number,), minsched={"session_id": f"u{number % SESSIONS}"})

    return {
        "plain Celery": lambda number: simple.apply_async((number,)),
        "placed": lambda number: demanding.apply_async((number,)),
        "sticky": sticky,
        "waiting": lambda number: demanding.apply_async((number,)),
    }


def prepare(plugin: MinSched, slots: int) -> None:
    """An empty server but for the nodes."""
    scheduler = plugin.scheduler
    scheduler.redis.flushall()
    for number in range(NODES):
        scheduler.register_node(
            RegisterNodeRequest(node_id=f"node-{number}", max_jobs=slots, pools_json='["asr"]')
        )


def measure(call: Callable[[int], Any], calls: int) -> Round:
    """One round; the calls before it, a tenth as many or one for each session, are not counted."""
    for number in range(max(calls // 10, SESSIONS)):
        call(number)
    times = []
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        times.append((time.perf_counter() - began) * 1000)
    return Round(median(times), p99(times))


@click.command()
@click.option("--calls", default=500, type=click.IntRange(2), help="In a round.")
@click.option("--rounds", default=15, help="Rounds for each way.")
def main(calls: int, rounds: int) -> None:
    """Milliseconds of an apply_async."""
    done: defaultdict[str, list[Round]] = defaultdict(list)
    server = Server()
    try:
        with server.client() as client:
            say(machine(client))
        with applications(server.port) as (ours, plain):
            for name, call in [*ways(ours, plain).items()] * rounds:
                prepare(ours.minsched, slots=1 if name == "waiting" else SLOTS)
                done[name].append(measure(call, calls))
    finally:
        server.close()
    print_table(
        f"{calls:,} calls a round; ms a call: median (middle half of the rounds)",
        ["", "p50", "ratio to plain", "p99", "ratio to plain"],
        [[name, *_row(of_way, done["plain Celery"])] for name, of_way in done.items()],
    )


def _row(rounds: list[Round], plain: list[Round]) -> list[Figure]:
    pairs = list(zip(rounds, plain, strict=True))
    return [
        Figure.of([one.p50 for one in rounds]),
        Figure.of([one.p50 / other.p50 for one, other in pairs]),
        Figure.of([one.p99 for one in rounds]),
        Figure.of([one.p99 / other.p99 for one, other in pairs]),
    ]


if __name__ == "__main__":
    main()
