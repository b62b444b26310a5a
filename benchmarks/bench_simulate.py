"""Does a simulation tell what a real fleet does?

The jobs of the replay (bench_trace.py) go to real nodes, and then through what is behind ``celery
minsched simulate``. That is told when they arrived, how long each worked, and for how long a slot
was taken beside that, on average. All else is for it to find out. (To it a job ends as its slot is
freed; here, as in the replay, when its work is done. What is between is taken off.)
"""

from __future__ import annotations

from pathlib import Path

import click
import redis

from benchmarks.bench_trace import BUSY, SCENARIOS
from benchmarks.common import machine, print_table, say
from benchmarks.replay import Replay, replay, requests_of
from benchmarks.trace import jobs_of, with_work
from celery_minsched.simulation import Result, simulate
from celery_minsched.simulation.result import Times
from tests.server import Server


def row(real: Replay, simulated: Result) -> list[str]:
    """Mean and 99th percentile of both, and their ratios."""
    cells = []
    measured = Times.of(real.responses)
    for name in ("mean", "p99"):
        was, told = getattr(measured, name), getattr(simulated.responses, name) - real.after
        cells += [f"{was:.3f}", f"{told:.3f}", f"{told / was:.3f}"]
    return [*cells, f"{1000 * (real.before + real.after):.1f}"]


@click.command()
@click.option("--trace", type=click.Path(exists=True, path_type=Path), help="Default: Azure's.")
@click.option("--seconds", default=90.0, help="Length of a replay.")
@click.option("--work", default=0.3, help="Mean work of a job, seconds.")
def main(trace: Path | None, seconds: float, work: float) -> None:
    """Time from arrival to end, as it was and as it is simulated."""
    requests, of = requests_of(trace)
    rows: list[list[str]] = []
    for scenario, (nodes, shares) in SCENARIOS.items():
        jobs = jobs_of(requests, seconds, work, BUSY, shares)
        real = replay("ours", nodes, jobs)
        server = Server()
        try:
            with redis.Redis(port=server.port) as client:
                if not rows:
                    say(machine(client))
                overhead = real.before + real.after
                simulated = simulate(client, with_work(jobs, real.took), nodes, overhead)
        finally:
            server.close()
        rows.append([scenario, *row(real, simulated)])
    print_table(
        f"{len(jobs):,} jobs of {of} in {seconds:g} s; seconds from arrival to end",
        ["", *("mean", "simulated", "ratio"), *("p99", "simulated", "ratio"), "overhead, ms"],
        rows,
    )


if __name__ == "__main__":
    main()
