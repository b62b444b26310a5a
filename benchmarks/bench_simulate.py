"""Does a simulation predict the times of a real fleet?

The jobs of the replay (bench_trace.py) run on real nodes, and then in the simulation of ``celery
minsched simulate``. The simulation gets the arrival of each job, its work time, and its overhead:
the time for which the slot was taken beyond the work. One run gets the overhead of each job. The
other run gets the mean overhead, because a user can measure the mean. In the simulation a job ends
when its slot is free. In the replay it ends when its work is done. The mean time between these two
moments is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import click
import redis

from benchmarks.bench_trace import SCENARIOS
from benchmarks.common import p99, print_machine, print_table
from benchmarks.replay import Replay, replay, replay_options, requests_of
from benchmarks.trace import jobs_of, with_work
from celery_minsched.simulation.play import simulate
from celery_minsched.simulation.result import Result
from celery_minsched.simulation.trace import Job, Node
from tests.support.server import Server


def simulations(real: Replay, jobs: Sequence[Job], nodes: Sequence[Node]) -> dict[str, Result]:
    """The results of the simulations with each job's overhead, and with the mean overhead."""
    overheads = [before + after for before, after in zip(real.before, real.after, strict=True)]
    slot_seconds = [took + overhead for took, overhead in zip(real.took, overheads, strict=True)]
    return {
        "each job's overhead": play(with_work(jobs, slot_seconds), nodes, 0.0),
        f"an overhead of {1000 * mean(overheads):.1f} ms": play(
            with_work(jobs, real.took), nodes, mean(overheads)
        ),
    }


def play(jobs: Sequence[Job], nodes: Sequence[Node], overhead: float) -> Result:
    """Run a simulation on its own server."""
    server = Server()
    try:
        with redis.Redis(port=server.port) as client:
            return simulate(client, jobs, nodes, overhead)
    finally:
        server.close()


def row(real: Replay, simulated: Result) -> list[str]:
    """Mean and 99th percentile of fleet and simulation, and their ratios."""
    cells = []
    for measured, simulated_time in (
        (mean(real.responses), simulated.responses.mean),
        (p99(real.responses), simulated.responses.p99),
    ):
        predicted = simulated_time - mean(real.after)
        cells += [f"{measured:.3f}", f"{predicted:.3f}", f"{predicted / measured:.3f}"]
    return cells


@click.command()
@replay_options(seconds=90.0, work=0.3)
def main(trace: Path | None, seconds: float, work: float) -> None:
    """Measure and simulate the time from arrival to end."""
    requests, source = requests_of(trace)
    print_machine()
    rows = []
    for scenario, (nodes, shares, busy) in SCENARIOS.items():
        jobs = jobs_of(requests, seconds, work, busy, shares)
        real = replay("ours", nodes, jobs)
        for overhead, simulated in simulations(real, jobs, nodes).items():
            rows.append([f"{scenario}, with {overhead}", *row(real, simulated)])
    print_table(
        f"{len(jobs):,} jobs of {source} in {seconds:g} s; seconds from arrival to end",
        ["", *("mean", "simulated", "ratio"), *("p99", "simulated", "ratio")],
        rows,
    )


if __name__ == "__main__":
    main()
