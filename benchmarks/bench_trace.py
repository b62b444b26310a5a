"""A trace replayed in real time, by real workers of 8, 4 and 2 slots.

How long does a job take from its arrival to its end, compared with an ideal queue that has the same
arrivals and the same durations? Ours, Celery as it comes, and Celery tuned for long tasks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click

from benchmarks.common import machine, p99, print_table, say
from benchmarks.trace import ideal, jobs_of, with_work
from benchmarks.trace_app import make_app
from benchmarks.workers import CONTENDERS, ROOT, await_notes, await_ready, send, wait_for, workers
from celery_minsched import MinSched
from celery_minsched.simulation.trace import Job, Node, read, synthesize
from tests.server import Server

TRACE = ROOT.parent / "shared" / "data" / "azure_llm_2023_conv.csv"
BUSY = 0.85

ONE_POOL = [Node("big", 8, ("a",)), Node("middle", 4, ("a",)), Node("small", 2, ("a",))]
TWO_POOLS = [Node("big", 8, ("a",)), Node("middle", 4, ("a", "b")), Node("small", 2, ("b",))]
#: By name: the nodes, and the slots' worth of jobs that each pool gets.
SCENARIOS = {
    "one pool": (ONE_POOL, {"a": 14}),
    "two pools that overlap": (TWO_POOLS, {"a": 10, "b": 4}),
}


@dataclass(frozen=True)
class Replay:
    """Seconds from arrival to end of each job, and what they would be with an ideal queue."""

    contender: str
    responses: list[float]
    ideal: list[float]
    #: How long each job worked.
    took: list[float]
    #: For how long, on average, its slot was taken before that, and after. Ours only.
    before: float
    after: float

    def row(self) -> list[str]:
        """Means and 99th percentiles, and their ratios."""
        cells = []
        for measure in (mean, p99):
            ours, best = measure(self.responses), measure(self.ideal)
            cells += [f"{ours:.3f}", f"{best:.3f}", f"{ours / best:.2f}"]
        return cells


def requests_of(trace: Path | None) -> tuple[list[tuple[float, float]], str]:
    """The requests to replay, and what they are of: the trace, Azure's where it is there, or one
    that is made up.
    """
    trace = trace or (TRACE if TRACE.exists() else None)
    return (read(trace), trace.name) if trace else (synthesize(20_000), "a made-up trace")


def replay(kind: str, nodes: Sequence[Node], jobs: Sequence[Job]) -> Replay:
    """Send each job when it arrives, and see when it began and ended."""
    server = Server()
    try:
        with make_app(server.url, kind) as app, workers(kind, nodes, server.url) as directory:
            await_ready(app, nodes, directory)
            warm = list(range(-sum(node.slots for node in nodes), 0))
            for number in warm:
                send(app, number, 0.05, jobs[-number % len(jobs)].pool)
            await_notes(directory, len(warm))
            began = time.time() + 0.5
            for number, job in enumerate(jobs):
                time.sleep(max(began + job.at - time.time(), 0))
                send(app, number, job.work, job.pool)
            seen = await_notes(directory, len(warm) + len(jobs))
            held = slot_times(app.minsched) if kind == "ours" else {}
    finally:
        server.close()
    ran = [seen[number] for number in range(len(jobs))]
    took = [end - start for start, end in ran]
    return Replay(
        CONTENDERS[kind],
        [end - began - job.at for (_, end), job in zip(ran, jobs, strict=True)],
        ideal(with_work(jobs, took), nodes),
        took,
        before=mean(begin - held[n][0] for n, (begin, _) in enumerate(ran)) if held else 0.0,
        after=mean(held[n][1] - end for n, (_, end) in enumerate(ran)) if held else 0.0,
    )


def slot_times(plugin: MinSched) -> dict[int, tuple[float, float]]:
    """By job, when it took its slot and freed it, once all have; seconds since the epoch."""
    scheduler, views = plugin.scheduler, plugin.views
    wait_for(
        lambda: not any(node.current_jobs for node in views.nodes()),
        lambda: "slots are taken though all jobs have ended",
    )
    keys = scheduler.redis.scan_iter(scheduler.keys("job", "*:*"), count=1000)
    ids = (parsed[1][0] for key in keys if (parsed := scheduler.keys.parse(key.decode())))
    jobs = (job for job_id in ids if (job := views.job(job_id)))
    return {int(job.task_id): (job.dispatched_ts / 1000, job.ended_ts / 1000) for job in jobs}


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
