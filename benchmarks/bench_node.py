"""How many tasks a second does one node run, compared with a plain worker with the same pool?

All tasks are sent before the worker starts. Tasks that do nothing measure the rate, from the start
of the first to the end of the last. Tasks that sleep for 50 ms measure the idle time of a slot:
slots x time / tasks - 50 ms. The contenders take turns, and a ratio compares two contenders in the
same round.
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
    """The figures of one worker."""

    rate: float  # tasks that do nothing, a second
    gap: float  # ms between two tasks of a slot


def measure(kind: str, pool: str, slots: int, noops: int, naps: int) -> Run:
    """Run tasks on a new worker and a new server."""
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
    """Seconds from the start of the first task to the end of the last."""
    return max(end for _, end in notes.values()) - min(begin for begin, _ in notes.values())


@click.command()
@click.option(
    "--pool", "pools", multiple=True, default=["prefork", "threads"], help="Worker pool of Celery."
)
@click.option("--slots", default=4, help="Slots of the node, and concurrency of the worker.")
@click.option("--noops", default=2000, help="Tasks that do nothing.")
@click.option("--naps", default=400, help="Tasks that sleep 50 ms.")
@click.option("--rounds", default=3, help="Rounds of each contender.")
def main(pools: tuple[str, ...], slots: int, noops: int, naps: int, rounds: int) -> None:
    """Measure the tasks a second of one node, and the idle time between two tasks of a slot."""
    # Each waiting task logs a warning, because no node is registered yet.
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
