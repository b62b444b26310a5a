"""Does a simulation tell what a real fleet does?

The jobs of the replay (bench_trace.py) go to real nodes, and then through what is behind ``celery
minsched simulate``. That is told when they arrived and how long each worked, and for how long a
slot was taken beside that: once of each job, and once the mean, which is what a user may know. All
else is for it to find out. (To it a job ends as its slot is freed; here, as in the replay, when its
work is done. What is between is taken off.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import click
import redis

from benchmarks.bench_trace import BUSY, SCENARIOS
from benchmarks.common import machine, p99, print_table, say
from benchmarks.replay import Replay, replay, requests_of
from benchmarks.trace import jobs_of, with_work
from celery_minsched.simulation import Job, Node, Result, simulate
from tests.support.server import Server


def simulations(real: Replay, jobs: Sequence[Job], nodes: Sequence[Node]) -> dict[str, Result]:
    """By what is told of the overhead, what comes of it."""
    beside = [before + after for before, after in zip(real.before, real.after, strict=True)]
    held = [took + overhead for took, overhead in zip(real.took, beside, strict=True)]
    return {
        "each job's overhead": play(with_work(jobs, held), nodes, 0.0),
        f"an overhead of {1000 * mean(beside):.1f} ms": play(
            with_work(jobs, real.took), nodes, mean(beside)
        ),
    }


def play(jobs: Sequence[Job], nodes: Sequence[Node], overhead: float) -> Result:
    """A simulation, on a server of its own."""
    server = Server()
    try:
        with redis.Redis(port=server.port) as client:
            return simulate(client, jobs, nodes, overhead)
    finally:
        server.close()


def row(real: Replay, simulated: Result) -> list[str]:
    """Mean and 99th percentile of both, and their ratios."""
    cells = []
    for measured, told in (
        (mean(real.responses), simulated.responses.mean),
        (p99(real.responses), simulated.responses.p99),
    ):
        told -= mean(real.after)
        cells += [f"{measured:.3f}", f"{told:.3f}", f"{told / measured:.3f}"]
    return cells


@click.command()
@click.option("--trace", type=click.Path(exists=True, path_type=Path), help="Default: Azure's.")
@click.option("--seconds", default=90.0, help="Length of a replay.")
@click.option("--work", default=0.3, help="Mean work of a job, seconds.")
def main(trace: Path | None, seconds: float, work: float) -> None:
    """Time from arrival to end, as it was and as it is simulated."""
    requests, of = requests_of(trace)
    server = Server()
    with server.client() as client:
        say(machine(client))
    server.close()
    rows = []
    for scenario, (nodes, shares) in SCENARIOS.items():
        jobs = jobs_of(requests, seconds, work, BUSY, shares)
        real = replay("ours", nodes, jobs)
        for told, simulated in simulations(real, jobs, nodes).items():
            rows.append([f"{scenario}; told {told}", *row(real, simulated)])
    print_table(
        f"{len(jobs):,} jobs of {of} in {seconds:g} s; seconds from arrival to end",
        ["", *("mean", "simulated", "ratio"), *("p99", "simulated", "ratio")],
        rows,
    )


if __name__ == "__main__":
    main()
