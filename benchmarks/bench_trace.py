"""How close are the times of jobs to those of an ideal queue?

Real workers with 8, 4 and 2 slots replay a trace in real time. The contenders are celery_minsched,
Celery with its defaults, and Celery with settings for long tasks. The result is the time of a job
from arrival to end, compared with an ideal queue with the same arrivals and durations. In the last
scenario more jobs arrive than the slots can run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.common import print_machine, print_table
from benchmarks.contenders import NAMES
from benchmarks.plots import draw_responses, plot_option
from benchmarks.replay import COLUMNS, Replay, replay, replay_options, requests_of
from benchmarks.trace import jobs_of
from celery_minsched.simulation.trace import Node

BUSY = 0.85
OVERLOAD = 1.1

ONE_POOL = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]
TWO_POOLS = [Node("big", 8, ("a",)), Node("middle", 4, ("a", "b")), Node("small", 2, ("b",))]
KINDS = ("ours", "plain", "tuned")


class Scenario(NamedTuple):
    """A fleet and its load."""

    nodes: Sequence[Node]
    shares: Mapping[str, int]  # each pool's share of the jobs, in slots
    busy: float = BUSY  # arriving work as a share of the capacity of the slots


SCENARIOS = {
    "one pool": Scenario(ONE_POOL, {"a": 14}),
    "two pools that overlap": Scenario(TWO_POOLS, {"a": 10, "b": 4}),
    "two pools, overloaded": Scenario(TWO_POOLS, {"a": 10, "b": 4}, OVERLOAD),
}


def measure(
    scenario: Scenario,
    kinds: Sequence[str],
    requests: Sequence[tuple[float, float]],
    seconds: float,
    work: float,
) -> dict[str, Replay]:
    """The replay of each contender, one after the other, with the same jobs."""
    jobs = jobs_of(requests, seconds, work, scenario.busy, scenario.shares)
    return {kind: replay(kind, scenario.nodes, jobs) for kind in kinds}


@click.command()
@replay_options(seconds=150.0, work=0.5)
@click.option("--contender", "kinds", multiple=True, type=click.Choice([*NAMES]), default=KINDS)
@click.option(
    "--scenario", "names", multiple=True, type=click.Choice([*SCENARIOS]), help="Default: all."
)
@plot_option
def main(
    trace: Path | None,
    seconds: float,
    work: float,
    kinds: Sequence[str],
    names: Sequence[str],
    picture: Path | None,
) -> None:
    """Measure the time from arrival to end, and its ratio to an ideal queue."""
    requests, source = requests_of(trace)
    print_machine()
    replays = {
        name: measure(SCENARIOS[name], kinds, requests, seconds, work)
        for name in names or SCENARIOS
    }
    print_replays(replays, f"Jobs of {source} in {seconds:g} s, mean work {work:g} s")
    if picture:
        draw_responses(picture, {name: [*ran.values()] for name, ran in replays.items()})


def print_replays(replays: Mapping[str, Mapping[str, Replay]], title: str) -> None:
    """Print a row for each scenario and contender."""
    print_table(
        f"{title}; seconds from arrival to end",
        ["", *COLUMNS],
        [
            [f"{name}, {one.contender}", *one.row()]
            for name, of_kinds in replays.items()
            for one in of_kinds.values()
        ],
    )


if __name__ == "__main__":
    main()
