"""Replays jobs with real workers in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TypeVar

import click

from benchmarks.common import p99, wait_for
from benchmarks.contenders import NAMES, CeleryPublisher, Publisher, publisher
from benchmarks.trace import ideal, with_work
from benchmarks.workers import ROOT, await_notes, logs, workers
from celery_minsched import MinSched
from celery_minsched.simulation.trace import Job, Node, read, synthesize
from tests.support.server import Server

TRACE = ROOT.parent / "shared" / "data" / "azure_llm_2023_conv.csv"


#: The columns of :meth:`Replay.row`.
COLUMNS = ("mean", "ideal", "ratio", "p99", "ideal", "ratio")

Command = TypeVar("Command", bound=Callable[..., object])


def replay_options(seconds: float, work: float) -> Callable[[Command], Command]:
    """``--trace``, ``--seconds`` and ``--work``, with the defaults of the benchmark."""
    options = (
        click.option(
            "--trace",
            type=click.Path(exists=True, path_type=Path),
            help="Trace file. Default: the trace of Azure.",
        ),
        click.option("--seconds", default=seconds, show_default=True, help="Seconds of a replay."),
        click.option(
            "--work", default=work, show_default=True, help="Mean seconds of work of a job."
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@dataclass(frozen=True)
class Replay:
    """Seconds from arrival to end of each job, and the same with an ideal queue."""

    contender: str
    responses: list[float]
    ideal: list[float]
    #: Seconds of work of each job.
    took: list[float]
    #: Seconds for which each job held its slot before and after its work. celery_minsched only.
    before: list[float]
    after: list[float]

    @property
    def mean_ratio(self) -> float:
        """The mean, divided by the ideal's."""
        return mean(self.responses) / mean(self.ideal)

    @property
    def p99_ratio(self) -> float:
        """The 99th percentile, divided by the ideal's."""
        return p99(self.responses) / p99(self.ideal)

    def row(self) -> list[str]:
        """Means and 99th percentiles, and their ratios to the ideal queue."""
        cells = []
        for measure, ratio in ((mean, self.mean_ratio), (p99, self.p99_ratio)):
            times = (measure(self.responses), measure(self.ideal))
            cells += [*(f"{seconds:.3f}" for seconds in times), f"{ratio:.2f}"]
        return cells


def requests_of(trace: Path | None) -> tuple[list[tuple[float, float]], str]:
    """The requests to replay, and the name of their source.

    The source is the file, the trace of Azure if it exists, or a generated trace.
    """
    trace = trace or (TRACE if TRACE.exists() else None)
    return (read(trace), trace.name) if trace else (synthesize(20_000), "a generated trace")


def replay(kind: str, nodes: Sequence[Node], jobs: Sequence[Job]) -> Replay:
    """Send each job at its arrival time. Returns the measured times."""
    with (
        closing(Server()) as server,
        closing(publisher(kind, server.url, nodes)) as sender,
        workers(kind, nodes, server.url) as directory,
    ):
        wait_for(
            lambda: sender.is_ready(directory),
            lambda: f"the workers did not start:\n{logs(directory)}",
        )
        warm = list(range(-sum(node.slots for node in nodes), 0))
        for number in warm:
            sender.send(number, Job(0.0, 0.05, jobs[-number % len(jobs)].pool))
        await_notes(directory, len(warm))
        began = time.time() + 0.5
        for number, job in enumerate(jobs):
            time.sleep(max(began + job.at - time.time(), 0))
            sender.send(number, job)
        notes = await_notes(directory, len(warm) + len(jobs))
        sender.check()
        held = slot_times(sender) if kind == "ours" else {}
    runs = [notes[number] for number in range(len(jobs))]
    took = [end - start for start, end in runs]
    # An ideal queue runs each job at a node that has its session.
    best = [job.work if job.session else seconds for job, seconds in zip(jobs, took, strict=True)]
    return Replay(
        NAMES[kind],
        [end - began - job.at for (_, end), job in zip(runs, jobs, strict=True)],
        ideal(with_work(jobs, best), nodes),
        took,
        before=[runs[number][0] - held[number][0] for number in range(len(jobs)) if held],
        after=[held[number][1] - runs[number][1] for number in range(len(jobs)) if held],
    )


def slot_times(sender: Publisher) -> dict[int, tuple[float, float]]:
    """The times at which each job took and freed its slot, in seconds since 1970."""
    assert isinstance(sender, CeleryPublisher)
    plugin: MinSched = sender.app.minsched
    scheduler, views = plugin.scheduler, plugin.views
    keys = scheduler.redis.scan_iter(scheduler.keys("job", "*:*"), count=1000)
    ids = (parsed[1][0] for key in keys if (parsed := scheduler.keys.parse(key.decode())))
    jobs = (job for job_id in ids if (job := views.job(job_id)))
    return {int(job.task_id): (job.dispatched_ts / 1000, job.ended_ts / 1000) for job in jobs}
