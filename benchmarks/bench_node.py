"""How fast does one node work through its tasks, beside a plain worker with the same pool?

All tasks have been sent when the worker starts. First come tasks that do nothing: how many a
second, from the begin of the first to the end of the last. Then tasks that sleep 50 ms: for how
long is a slot idle between two of them? That is slots x time / tasks, less the 50 ms. The
contenders take turns, and ratios are of the same round.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from typing import NamedTuple

import click

from benchmarks.common import Figure, machine, print_table, say
from benchmarks.contenders import CONTENDERS, publisher
from benchmarks.workers import await_notes, workers
from celery_minsched.simulation.trace import Job, Node
from tests.support.server import Server

NAP = 0.05  # seconds
POOL = "asr"


class Run(NamedTuple):
    """What one worker did."""

    rate: float  # tasks that do nothing, a second
    gap: float  # ms in which a slot is idle, between two tasks that sleep


def measure(kind: str, pool: str, slots: int, noops: int, naps: int) -> Run:
    """Have a worker of its own, on a server of its own, work through so many tasks."""
    nodes = [Node("node", slots, (POOL,))]
    with (
        closing(Server()) as server,
        closing(publisher(kind, server.url, nodes)) as sender,
    ):
        for number in range(noops + naps):
            sender.send(number, Job(0.0, 0.0 if number < noops else NAP, POOL))
        with workers(kind, nodes, server.url, pool) as directory:
            notes = await_notes(directory, noops + naps)
    time_asleep = _time({number: notes[number] for number in range(noops, noops + naps)})
    return Run(
        rate=noops / _time({number: notes[number] for number in range(noops)}),
        gap=(slots * time_asleep / naps - NAP) * 1000,
    )


def _time(notes: Mapping[int, tuple[float, float]]) -> float:
    """Seconds from the begin of the first to the end of the last."""
    return max(end for _, end in notes.values()) - min(begin for begin, _ in notes.values())


@click.command()
@click.option("--pool", "pools", multiple=True, default=["prefork", "threads"], help="Celery's.")
@click.option("--slots", default=4, help="Of the node; the worker's concurrency.")
@click.option("--noops", default=2000, help="Tasks that do nothing.")
@click.option("--naps", default=400, help="Tasks that sleep 50 ms.")
@click.option("--rounds", default=3, help="Rounds for each contender.")
def main(pools: tuple[str, ...], slots: int, noops: int, naps: int, rounds: int) -> None:
    """Tasks a second through one node, and the gap between two tasks in a slot."""
    # Of each task that waits there is a warning: no node can do it yet.
    logging.getLogger("celery_minsched").setLevel(logging.ERROR)
    server = Server()
    with server.client() as client:
        say(machine(client))
    server.close()
    rates, gaps = [], []
    for pool in pools:
        runs: defaultdict[str, list[Run]] = defaultdict(list)
        for _ in range(rounds):
            for kind in CONTENDERS:
                runs[kind].append(measure(kind, pool, slots, noops, naps))
        for kind, name in CONTENDERS.items():
            ratios = [
                ours.rate / other.rate for ours, other in zip(runs["ours"], runs[kind], strict=True)
            ]
            rate, gap = (Figure.of(figures) for figures in zip(*runs[kind], strict=True))
            rates.append([f"{pool}, {name}", rate, Figure.of(ratios)])
            gaps.append([f"{pool}, {name}", gap])
    print_table(
        f"{noops:,} tasks that do nothing, {slots} slots: median (middle half of the rounds)",
        ["", "tasks a second", "ours / this, same round"],
        rates,
    )
    print_table(
        f"{naps:,} tasks of {NAP * 1000:g} ms, {slots} slots: median (middle half of the rounds)",
        ["", "idle between two tasks in a slot, ms"],
        gaps,
    )


if __name__ == "__main__":
    main()
