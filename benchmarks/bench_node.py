"""How fast does one node run its tasks, compared with other workers with the same slots?

All tasks are in Redis when the worker starts. The first tasks warm up the worker. The next tasks do
nothing: their rate is measured from the start of the first to the end of the last. The last tasks
sleep for 50 ms: the idle time of a slot between two tasks is measured. The contenders take turns,
and a ratio compares two runs of the same round.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import click

from benchmarks.common import Figure, print_machine, print_table
from benchmarks.contenders import CONTENDERS, NAMES, OTHERS, publisher
from benchmarks.workers import await_notes, workers
from celery_minsched.simulation.trace import Job, Node
from tests.support.server import Server

NAP = 0.05  # seconds
POOL = "asr"
KINDS = (*CONTENDERS, *OTHERS)
POOLS = ("prefork", "threads")
RQ_SHARE = 5  # RQ forks for each job. It gets a fifth of the tasks that do nothing


@dataclass(frozen=True)
class Tasks:
    """The tasks of one run, in this order."""

    warm: int = 100
    noops: int = 2000
    naps: int = 400

    def of(self, kind: str) -> Tasks:
        """The tasks for a contender."""
        if kind != "rq":
            return self
        return Tasks(self.warm // RQ_SHARE, self.noops // RQ_SHARE, self.naps)


class Run(NamedTuple):
    """The figures of one worker."""

    rate: float  # tasks that do nothing, a second
    gap: float  # ms for which a slot is idle between two tasks that sleep


Runs = Mapping[str, Sequence[Run]]  # by contender, in the order of the rounds


def can_run(kind: str, pool: str) -> bool:
    """True if the contender has the pool. RQ has only processes."""
    return kind != "rq" or pool == "prefork"


def measure(kind: str, pool: str, slots: int, tasks: Tasks) -> Run:
    """Run the tasks on a worker, with a server of its own."""
    nodes = [Node("node", slots, (POOL,))]
    tasks = tasks.of(kind)
    busy = tasks.warm + tasks.noops
    with closing(Server()) as server, closing(publisher(kind, server.url, nodes)) as sender:
        for number in range(busy + tasks.naps):
            sender.send(number, Job(0.0, 0.0 if number < busy else NAP, POOL))
        with workers(kind, nodes, server.url, pool) as directory:
            notes = await_notes(directory, busy + tasks.naps)
            sender.check()
    noops = [notes[number] for number in range(tasks.warm, busy)]
    naps = [notes[number] for number in range(busy, busy + tasks.naps)]
    idle = slots * _span(naps) - sum(end - begin for begin, end in naps)
    return Run(
        rate=len(noops) / _span(noops) if noops else 0.0,
        gap=idle / (len(naps) - slots) * 1000,
    )


def _span(notes: Sequence[tuple[float, float]]) -> float:
    """Seconds from the start of the first task to the end of the last."""
    return max(end for _, end in notes) - min(begin for begin, _ in notes)


def measure_all(
    kinds: Sequence[str], pool: str, slots: int, tasks: Tasks, rounds: int
) -> dict[str, list[Run]]:
    """The runs of each contender that has the pool. The contenders take turns."""
    # The publisher logs a warning for each waiting task, because no node is registered yet.
    logging.getLogger("celery_minsched").setLevel(logging.ERROR)
    runs: defaultdict[str, list[Run]] = defaultdict(list)
    for _ in range(rounds):
        for kind in kinds:
            if can_run(kind, pool):
                runs[kind].append(measure(kind, pool, slots, tasks))
    return runs


def ratios(runs: Runs, kind: str, figure: Callable[[Run], float]) -> Figure:
    """The node's figure divided by the contender's, round by round."""
    return Figure.of(
        [figure(ours) / figure(other) for ours, other in zip(runs["ours"], runs[kind], strict=True)]
    )


def rows(runs: Runs, pool: str) -> list[list[object]]:
    """A row for each contender."""
    return [
        [
            f"{pool}, {NAMES[kind]}",
            Figure.of([run.rate for run in kind_runs]),
            ratios(runs, kind, lambda run: run.rate),
            Figure.of([run.gap for run in kind_runs]),
            ratios(runs, kind, lambda run: run.gap),
        ]
        for kind, kind_runs in runs.items()
    ]


def print_runs(rows: Sequence[Sequence[object]], tasks: Tasks, slots: int) -> None:
    """Print the rows of all pools."""
    columns = ["", "tasks a second", "ours / this", "idle between two tasks in a slot, ms"]
    print_table(
        f"{tasks.noops:,} tasks that do nothing and {tasks.naps:,} tasks of {NAP * 1000:g} ms, "
        f"{slots} slots: median (middle half of the rounds)",
        [*columns, "ours / this"],
        rows,
    )


@click.command()
@click.option("--pool", "pools", multiple=True, default=POOLS, help="A pool of Celery.")
@click.option("--contender", "kinds", multiple=True, type=click.Choice(KINDS), default=KINDS)
@click.option("--slots", default=4, help="Slots of the node, and concurrency of the worker.")
@click.option("--noops", default=2000, type=click.IntRange(RQ_SHARE), help="Tasks that do nothing.")
@click.option("--naps", default=400, help="Tasks that sleep for 50 ms.")
@click.option("--rounds", default=3, help="Rounds of each contender.")
def main(
    pools: Sequence[str], kinds: Sequence[str], slots: int, noops: int, naps: int, rounds: int
) -> None:
    """Tasks a second on one node, and the idle time between two tasks in a slot."""
    print_machine()
    tasks = Tasks(noops=noops, naps=naps)
    kinds = ["ours", *(kind for kind in kinds if kind != "ours")]
    of_pools = []
    for pool in pools:
        of_pools += rows(measure_all(kinds, pool, slots, tasks, rounds), pool)
    print_runs(of_pools, tasks, slots)


if __name__ == "__main__":
    main()
