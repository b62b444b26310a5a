"""Does a dispatch cost the same with 10 nodes and with 10,000?

Measures the server's time in scripts (``INFO commandstats``) for a ``dispatch_task`` and the
``complete_task`` of its job. Each fleet has its own server. The fleets take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import click

from benchmarks.common import Figure, machine, print_table, say
from benchmarks.least_pair import LeastPair, print_ratio, print_steps, server_time, step_costs
from benchmarks.plots import Curve, Panel, draw, plot_option
from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
)
from celery_minsched.core.models import DispatchResponse
from celery_minsched.core.settings import Settings
from tests.support.server import Server

POOL = "asr"
SLOTS = 4
OPEN_JOBS = 20  # taken at the same time, in a fleet of any size
EMPTY = "return {'OK'}"
#: By name.
SCANS = {
    name: (Path(__file__).parent / file).read_text(encoding="utf-8")
    for name, file in (
        ("the specification's scan", "scan_members.lua"),
        ("the best scan", "scan_sorted.lua"),
    )
}
SCANNED = 20_000  # the most nodes that one round of scans reads
DAY = 86400.0  # seconds
MESSAGE = ('{"job_id": ', "}")


@dataclass
class Fleet:
    """Registered nodes without processes. Measures the server's time in µs."""

    service: MinimalSchedulerService
    nodes: int
    least_pair: LeastPair
    pair: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    empty: list[float] = field(default_factory=list)
    scans: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCANS})

    def measure(self, jobs: int) -> None:
        """One round."""
        self.pair.append(self._server_time(lambda: self.work(jobs), jobs))
        self.least.append(self._server_time(lambda: self.least_pair.work(jobs, OPEN_JOBS), jobs))
        self.empty.append(self._server_time(lambda: self._evaluate(EMPTY, jobs), jobs))
        scans = max(min(jobs, SCANNED // self.nodes), 1)
        for name, script in SCANS.items():
            self.scans[name].append(
                self._server_time(partial(self._evaluate, script, scans), scans)
            )

    def work(self, jobs: int, session: str = "") -> None:
        """Dispatch and complete jobs. Some jobs run at any time."""
        demand = DispatchRequest(pool=POOL, session_id=session)
        opened: deque[DispatchResponse] = deque()
        for _ in range(jobs):
            opened.append(self.service.dispatch_task(demand))
            if len(opened) > OPEN_JOBS:
                self._complete(opened.popleft())
        for job in opened:
            self._complete(job)

    def _complete(self, job: DispatchResponse) -> None:
        self.service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
        )

    def _evaluate(self, script: str, times: int) -> None:
        client = self.service.redis
        sha = client.script_load(script)
        for _ in range(times):
            client.evalsha(sha, 1, self.service.keys.prefix, POOL)

    def _server_time(self, calls: Callable[[], None], pieces: int) -> float:
        return server_time(self.service.redis, calls, pieces)


@contextmanager
def fleet(nodes: int) -> Iterator[Fleet]:
    """A fleet. Its nodes stay alive for a day without heartbeats."""
    server = Server()
    try:
        with server.client() as client:
            service = MinimalSchedulerService(
                client, Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY)
            )
            for number in range(nodes):
                service.register_node(
                    RegisterNodeRequest(
                        node_id=f"node-{number}", max_jobs=SLOTS, pools_json=f'["{POOL}"]'
                    )
                )
            yield Fleet(service, nodes, LeastPair(client, nodes, SLOTS))
    finally:
        server.close()


def remember(fleet: Fleet, jobs: int) -> None:
    """Run jobs to their end. Each job has its own session."""
    for number in range(jobs):
        fleet.work(1, session=f"session-{number}")


def keep_waiting(fleet: Fleet, jobs: int) -> None:
    """Put jobs in line in the fleet's pool. They ask for a capability that no node has."""
    service = fleet.service
    for _ in range(jobs):
        demand = DispatchRequest(pool=POOL, capabilities=["none-has-it"], when_full="wait")
        service.dispatch_tasks([(demand, MESSAGE)])


def measure(fleets: Sequence[Fleet], rounds: int, jobs: int) -> None:
    """Let the fleets take turns, so that a slow moment of the machine affects all of them."""
    for measured in fleets:
        measured.work(jobs)  # warm up
    for _ in range(rounds):
        for measured in fleets:
            measured.measure(jobs)


def row(fleet: Fleet, first: Fleet) -> list[str]:
    """The time of a job in this fleet, and its ratio to the first fleet."""
    pair = Figure.of(fleet.pair)
    return [str(pair), f"{pair.median / Figure.of(first.pair).median:.2f}"]


def panel(fleets: Sequence[Fleet]) -> Panel:
    """Print the table by number of nodes."""
    curves = {
        "dispatch + complete": [measured.pair for measured in fleets],
        "an empty script": [measured.empty for measured in fleets],
        **{name: [measured.scans[name] for measured in fleets] for name in SCANS},
    }
    sizes = [measured.nodes for measured in fleets]
    return Panel(
        "",
        [Curve(name, sizes, list(map(median, rounds))) for name, rounds in curves.items()],
        *("nodes", "server time, µs"),
    )


@click.command()
@click.option(
    "--nodes",
    multiple=True,
    type=int,
    default=[10, 100, 1000, 10_000, 100_000],
    help="Nodes of a fleet.",
)
@click.option("--rounds", default=9, help="Rounds of each fleet.")
@click.option("--jobs", default=500, help="Jobs in a round.")
@click.option(
    "--stored", multiple=True, type=int, default=[2000, 20_000], help="Other jobs in Redis."
)
@plot_option
def main(
    nodes: Sequence[int], rounds: int, jobs: int, stored: Sequence[int], picture: Path | None
) -> None:
    """Measure the server's time for a dispatch and a completion."""
    unit = "server time, µs: median (middle half of the rounds)"
    with ExitStack() as stack:
        fleets = [stack.enter_context(fleet(size)) for size in nodes]
        say(machine(fleets[0].service.redis))
        measure(fleets, rounds, jobs)
        print_table(
            f"By nodes; {unit}",
            ["nodes", "dispatch + complete", "ratio", "an empty script", *SCANS],
            [
                [
                    f"{measured.nodes:,}",
                    *row(measured, fleets[0]),
                    *map(Figure.of, (measured.empty, *measured.scans.values())),
                ]
                for measured in fleets
            ],
        )
        print_ratio(fleets[0].pair, fleets[0].least)
        if picture:
            draw(picture, [panel(fleets)])
        print_steps(step_costs(fleets[0].service.redis, jobs))
    with ExitStack() as stack:
        by_data = {"nothing": stack.enter_context(fleet(10 * nodes[0]))}
        for count in stored:
            ended = stack.enter_context(fleet(10 * nodes[0]))
            remember(ended, count)
            waiting = stack.enter_context(fleet(10 * nodes[0]))
            keep_waiting(waiting, count)
            by_data[f"{count:,} ended jobs, a session each"] = ended
            by_data[f"{count:,} waiting jobs"] = waiting
        fleets = list(by_data.values())
        measure(fleets, rounds, jobs)
        print_table(
            f"By other data in Redis, {fleets[0].nodes:,} nodes; {unit}",
            ["other data in Redis", "dispatch + complete", "ratio"],
            [[name, *row(measured, fleets[0])] for name, measured in by_data.items()],
        )


if __name__ == "__main__":
    main()
