"""How close are the times of jobs to those of an ideal queue?

Real workers with 8, 4 and 2 slots replay a trace in real time. The contenders are celery_minsched,
Celery with its defaults, and Celery with settings for long tasks. The result is the time of a job
from arrival to end, compared with an ideal queue with the same arrivals and durations.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import print_table
from benchmarks.contenders import CONTENDERS
from benchmarks.plots import draw_responses, plot_option
from benchmarks.replay import COLUMNS, Replay, replay, replay_options, requests_of, say_machine
from benchmarks.trace import jobs_of
from celery_minsched.simulation.trace import Node

BUSY = 0.85

ONE_POOL = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]
TWO_POOLS = [Node("big", 8, ("a",)), Node("middle", 4, ("a", "b")), Node("small", 2, ("b",))]
#: Nodes, and each pool's share of the jobs in slots, by name.
SCENARIOS = {
    "one pool": (ONE_POOL, {"a": 14}),
    "two pools that overlap": (TWO_POOLS, {"a": 10, "b": 4}),
}


@click.command()
@replay_options(seconds=150.0, work=0.5)
@plot_option
def main(trace: Path | None, seconds: float, work: float, picture: Path | None) -> None:
    """Measure the time from arrival to end, and its ratio to an ideal queue."""
    requests, of = requests_of(trace)
    say_machine()
    replays: dict[str, list[Replay]] = {}
    rows = []
    for scenario, (nodes, shares) in SCENARIOS.items():
        jobs = jobs_of(requests, seconds, work, BUSY, shares)
        replays[scenario] = [replay(kind, nodes, jobs) for kind in CONTENDERS]
        rows += [[f"{scenario}, {one.contender}", *one.row()] for one in replays[scenario]]
    print_table(
        f"{len(jobs):,} jobs of {of} in {seconds:g} s, "
        f"mean work {work:g} s, slots {BUSY:.0%} busy; seconds from arrival to end",
        ["", *COLUMNS],
        rows,
    )
    if picture:
        draw_responses(picture, replays)


if __name__ == "__main__":
    main()
