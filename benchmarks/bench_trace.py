"""A trace replayed in real time, by real workers of 8, 4 and 2 slots.

How long does a job take from its arrival to its end, compared with an ideal queue that has the same
arrivals and the same durations? Ours, Celery as it comes, and Celery tuned for long tasks.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import machine, print_table, say
from benchmarks.contenders import CONTENDERS
from benchmarks.plots import draw_responses, plot_option
from benchmarks.replay import Replay, replay, requests_of
from benchmarks.trace import jobs_of
from celery_minsched.simulation.trace import Node
from tests.support.server import Server

BUSY = 0.85

ONE_POOL = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]
TWO_POOLS = [Node("big", 8, ("a",)), Node("middle", 4, ("a", "b")), Node("small", 2, ("b",))]
#: By name: the nodes, and the slots' worth of jobs that each pool gets.
SCENARIOS = {
    "one pool": (ONE_POOL, {"a": 14}),
    "two pools that overlap": (TWO_POOLS, {"a": 10, "b": 4}),
}


@click.command()
@click.option("--trace", type=click.Path(exists=True, path_type=Path), help="Default: Azure's.")
@click.option("--seconds", default=150.0, help="Length of a replay.")
@click.option("--work", default=0.5, help="Mean work of a job, seconds.")
@plot_option
def main(trace: Path | None, seconds: float, work: float, picture: Path | None) -> None:
    """Time from arrival to end, over that of an ideal queue, for three contenders."""
    requests, of = requests_of(trace)
    server = Server()
    with server.client() as client:
        say(machine(client))
    server.close()
    replays: dict[str, list[Replay]] = {}
    rows = []
    for scenario, (nodes, shares) in SCENARIOS.items():
        jobs = jobs_of(requests, seconds, work, BUSY, shares)
        replays[scenario] = [replay(kind, nodes, jobs) for kind in CONTENDERS]
        rows += [[f"{scenario}, {one.contender}", *one.row()] for one in replays[scenario]]
    print_table(
        f"{len(jobs):,} jobs of {of} in {seconds:g} s, "
        f"mean work {work:g} s, slots {BUSY:.0%} busy; seconds from arrival to end",
        ["", "mean", "ideal", "ratio", "p99", "ideal", "ratio"],
        rows,
    )
    if picture:
        draw_responses(picture, replays)


if __name__ == "__main__":
    main()
