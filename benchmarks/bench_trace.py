"""A trace replayed in real time, by real workers of 8, 4 and 2 slots.

How long does a job take from its arrival to its end, compared with an ideal queue that has the same
arrivals and the same durations? Ours, Celery as it comes, and Celery tuned for long tasks.
"""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.common import machine, print_table, say
from benchmarks.contenders import CONTENDERS
from benchmarks.replay import Replay, replay, requests_of
from benchmarks.trace import jobs_of
from celery_minsched.simulation.trace import Node
from tests.server import Server

BUSY = 0.85

ONE_POOL = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]
TWO_POOLS = [Node("big", 8, ("a",)), Node("middle", 4, ("a", "b")), Node("small", 2, ("b",))]
#: By name: the nodes, and the slots' worth of jobs that each pool gets.
SCENARIOS = {
    "one pool": (ONE_POOL, {"a": 14}),
    "two pools that overlap": (TWO_POOLS, {"a": 10, "b": 4}),
}


def plot(path: Path, replays: dict[str, list[Replay]]) -> None:
    """What share of the jobs took longer than so many seconds, a panel for each scenario."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(replays), figsize=(5 * len(replays), 4), sharey=True, squeeze=False
    )
    for panel, (scenario, of_scenario) in zip(panels[0], replays.items(), strict=True):
        curves = [(one.contender, one.responses, "-") for one in of_scenario]
        curves.append(("ideal", of_scenario[0].ideal, ":"))
        for name, responses, style in curves:
            shares = [1 - at / len(responses) for at in range(len(responses))]
            panel.plot(sorted(responses), shares, style, label=name)
        panel.set(title=scenario, xlabel="seconds from arrival to end", xscale="log")
        panel.set(yscale="log", ylim=(1e-3, 1))
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("share of jobs that took longer")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@click.command()
@click.option("--trace", type=click.Path(exists=True, path_type=Path), help="Default: Azure's.")
@click.option("--seconds", default=90.0, help="Length of a replay.")
@click.option("--work", default=0.3, help="Mean work of a job, seconds.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="A PNG to write.")
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
        plot(picture, replays)
        say(f"Plot: {picture}")


if __name__ == "__main__":
    main()
