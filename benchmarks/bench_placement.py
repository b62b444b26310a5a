"""How good is the choice of a node, compared with the alternatives that a user has?

The contenders replay a trace with real workers in four scenarios: celery_minsched, Celery in four
configurations, RQ and dramatiq. The result is the time of a job from arrival to end, compared with
an ideal queue. In the last scenario each job has a session. If the node's cache does not have the
session, the job takes 1.5 times as long. The ideal queue never loads a session.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmarks.bench_trace import BUSY, ONE_POOL, TWO_POOLS
from benchmarks.common import print_machine, print_table
from benchmarks.contenders import NAMES
from benchmarks.plots import draw_responses, plot_option
from benchmarks.replay import COLUMNS, Replay, replay, replay_options, requests_of
from benchmarks.trace import jobs_of
from celery_minsched.simulation.trace import Job, Node

SHORT = 20.0  # seconds


@dataclass(frozen=True)
class Scenario:
    """A fleet and its jobs."""

    nodes: Sequence[Node]
    shares: Mapping[str, int]  # each pool's share of the jobs, in slots
    busy: float = BUSY
    sessions: int = 0

    def jobs(
        self, requests: Sequence[tuple[float, float]], seconds: float, work: float
    ) -> list[Job]:
        """The jobs of a replay."""
        jobs = jobs_of(requests, seconds, work, self.busy, self.shares)
        if not self.sessions:
            return jobs
        chance = random.Random(self.sessions)
        return [replace(job, session=f"s{chance.randrange(self.sessions)}") for job in jobs]


EQUAL = [Node(f"node-{number}", 4, ("a",)) for number in range(3)]
SCENARIOS = {
    "equal nodes": Scenario(EQUAL, {"a": 12}),
    "unequal nodes": Scenario(ONE_POOL, {"a": 14}),
    "pools that overlap": Scenario(TWO_POOLS, {"a": 10, "b": 4}),
    # All caches together have room for all sessions. If each job loaded its session, the slots
    # would be 90 % busy.
    "sticky sessions": Scenario(EQUAL, {"a": 12}, busy=0.6, sessions=36),
}


@click.command()
@replay_options(seconds=60.0, work=0.3)
@click.option("--short", is_flag=True, help=f"{SHORT:g} s each, for a first look.")
@click.option("--contender", "kinds", multiple=True, type=click.Choice([*NAMES]), default=[*NAMES])
@click.option(
    "--scenario", "names", multiple=True, type=click.Choice([*SCENARIOS]), default=[*SCENARIOS]
)
@plot_option
def main(
    trace: Path | None,
    seconds: float,
    short: bool,
    work: float,
    kinds: Sequence[str],
    names: Sequence[str],
    picture: Path | None,
) -> None:
    """Measure the time from arrival to end, and its ratio to an ideal queue."""
    seconds = SHORT if short else seconds
    requests, source = requests_of(trace)
    print_machine()
    replays: dict[str, list[Replay]] = {}
    for name in names:
        scenario = SCENARIOS[name]
        jobs = scenario.jobs(requests, seconds, work)
        replays[name] = [replay(kind, scenario.nodes, jobs) for kind in kinds]
        print_table(
            f"{name}: {len(jobs):,} jobs of {source} in {seconds:g} s, mean work {work:g} s, slots "
            f"{scenario.busy:.0%} busy; seconds from arrival to end",
            ["", *COLUMNS],
            [[run.contender, *run.row()] for run in replays[name]],
        )
    if picture:
        draw_responses(picture, replays)


if __name__ == "__main__":
    main()
