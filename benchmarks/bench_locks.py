"""Compares the dispatches a second of the scripts with those of a table of nodes behind a lock.

1 to 64 dispatchers are threads in several processes. Each dispatches and completes one job after
the other. The contenders are the scripts, a table in Redis behind a lock of redis-py, and a table
in a process behind a socket (examples/locked_scheduler.py). There is always a free slot. The
contenders take turns, and a ratio compares two contenders in the same round. All processes share
the cores.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import click
import redis

from benchmarks.common import Figure, check, p99, print_machine, print_table
from benchmarks.locked import MutexClient, RedisLocked, mutex_server
from benchmarks.plots import Curve, Panel, draw, plot_option
from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
)
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.queries import Views
from tests.support.server import Server

MUTEX = "a mutex behind a server"
SLOTS = 8
PROCESSES = 4
DAY = 86400.0  # seconds


class Dispatcher(Protocol):
    """The interface of a contender."""

    def dispatch(self, session: str) -> Any:
        """Take a slot. Returns the job."""

    def complete(self, job: Any) -> None:
        """Free the job's slot."""


class Ours:
    """The contender that runs the scripts of this project."""

    def __init__(self, client: redis.Redis) -> None:
        self.service = MinimalSchedulerService(
            client, Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY)
        )

    def fill(self, nodes: int, slots: int) -> None:
        """Register nodes."""
        for number in range(nodes):
            self.service.register_node(
                RegisterNodeRequest(node_id=f"node-{number}", max_jobs=slots, pools_json='["asr"]')
            )

    def dispatch(self, session: str) -> DispatchResponse:
        """Take a slot of the least-loaded node. Returns the job."""
        return self.service.dispatch_task(DispatchRequest(pool="asr", session_id=session))

    def complete(self, job: DispatchResponse) -> None:
        """Free the job's slot."""
        self.service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
        )


def _redis(port: int) -> redis.Redis:
    return redis.Redis(port=port, decode_responses=True)


#: Functions that connect a thread to a contender's port, by name.
CONTENDERS: dict[str, Callable[[int], Dispatcher]] = {
    "ours": lambda port: Ours(_redis(port)),
    "one Redis lock": lambda port: RedisLocked(_redis(port)),
    MUTEX: MutexClient,
}


@dataclass(frozen=True)
class Round:
    """The figures of a number of dispatchers together."""

    rate: float  # jobs a second
    p50: float  # ms of a dispatch
    p99: float


#: The rounds of each contender, by number of dispatchers.
ByCrowd = Mapping[int, Mapping[str, Sequence[Round]]]


def work(name: str, port: int, thread: str, until: float) -> list[float]:
    """Dispatch and complete until a time. Returns the seconds of each dispatch."""
    contender = CONTENDERS[name](port)
    times: list[float] = []
    while (began := time.time()) < until or not times:
        job = contender.dispatch(thread)
        times.append(time.time() - began)
        contender.complete(job)
    return times


def _run_dispatchers(connection: Connection) -> None:
    """The main function of a process of dispatchers. It sends ``ready`` when it has started."""
    connection.send("ready")
    while command := connection.recv():
        name, port, threads, until = command
        with ThreadPoolExecutor(len(threads)) as pool:
            runs = [pool.submit(work, name, port, thread, until) for thread in threads]
            connection.send([seconds for run in runs for seconds in run.result()])


@contextmanager
def dispatchers() -> Iterator[list[Connection]]:
    """Start the processes of dispatchers. Returns a connection to each."""
    context = multiprocessing.get_context("spawn")
    connections = []
    for _ in range(PROCESSES):
        parent_end, child_end = context.Pipe()
        context.Process(target=_run_dispatchers, args=(child_end,), daemon=True).start()
        connections.append(parent_end)
    for parent_end in connections:
        parent_end.recv()
    yield connections
    for parent_end in connections:
        parent_end.send(None)


def measure(
    connections: Sequence[Connection], name: str, port: int, threads: int, seconds: float
) -> Round:
    """Run dispatchers for some seconds. All processes get an equal number of threads."""
    began = time.time()
    shares = [range(at, threads, len(connections)) for at in range(min(threads, len(connections)))]
    for connection, share in zip(connections, shares, strict=False):
        connection.send((name, port, [f"u{number}" for number in share], began + seconds))
    times = [
        1000 * dispatch_seconds
        for connection, _ in zip(connections, shares, strict=False)
        for dispatch_seconds in connection.recv()
    ]
    return Round(len(times) / (time.time() - began), median(times), p99(times))


def measure_all(
    connections: Sequence[Connection],
    ports: Mapping[str, int],
    threads: int,
    rounds: int,
    seconds: float,
) -> dict[str, list[Round]]:
    """The rounds of each contender. The contenders take turns."""
    done: defaultdict[str, list[Round]] = defaultdict(list)
    for name, port in [*ports.items()] * rounds:
        done[name].append(measure(connections, name, port, threads, seconds))
    with _redis(ports["ours"]) as client:
        check(Views(client, Ours(client).service.keys))
    return done


def ratio(ours: Sequence[Round], rounds: Sequence[Round]) -> Figure:
    """Our jobs a second divided by the contender's, round by round."""
    return Figure.of([our.rate / other.rate for our, other in zip(ours, rounds, strict=True)])


@contextmanager
def contenders(nodes: int) -> Iterator[dict[str, int]]:
    """Start each contender on its own server with the nodes. Returns the ports by name."""
    with ExitStack() as stack:
        ports = {}
        for name, contender in (("ours", Ours), ("one Redis lock", RedisLocked)):
            server = Server()
            stack.callback(server.close)
            contender(_redis(server.port)).fill(nodes, SLOTS)
            ports[name] = server.port
        ports[MUTEX] = stack.enter_context(mutex_server(nodes, SLOTS))
        yield ports


@click.command()
@click.option("--nodes", multiple=True, type=int, default=[100, 1000], help="Nodes in the table.")
@click.option(
    "--dispatchers", "crowd", multiple=True, type=click.IntRange(1, 256), default=[1, 4, 16, 64]
)
@click.option("--rounds", default=3, help="Rounds of each contender.")
@click.option("--seconds", default=2.0, help="Seconds of each round.")
@plot_option
def main(
    nodes: Sequence[int],
    crowd: Sequence[int],
    rounds: int,
    seconds: float,
    picture: Path | None,
) -> None:
    """Measure dispatches a second and their time, by number of dispatchers."""
    print_machine()
    panels = []
    for size in nodes:
        by_crowd = {}
        with dispatchers() as connections, contenders(size) as ports:
            for threads in crowd:
                done = measure_all(connections, ports, threads, rounds, seconds)
                by_crowd[threads] = done
        print_rounds(size, by_crowd)
        panels += panels_of(f"{size:,} nodes", by_crowd)
    if picture:
        draw(picture, panels)


def print_rounds(nodes: int, by_crowd: ByCrowd) -> None:
    """Print a row for each contender and number of dispatchers."""
    print_table(
        f"{nodes:,} nodes; median (middle half of the rounds)",
        ["dispatchers", "jobs a second", "ours / this", "a dispatch, p50, ms", "p99, ms"],
        [
            [f"{threads}, {name}", *row(done["ours"], of_one)]
            for threads, done in by_crowd.items()
            for name, of_one in done.items()
        ],
    )


def panels_of(title: str, by_crowd: ByCrowd) -> list[Panel]:
    """Draw throughput and latency by number of dispatchers."""
    crowd = list(by_crowd)

    def curves(figure: Callable[[Round], float]) -> list[Curve]:
        return [
            Curve(name, crowd, [median(map(figure, done[name])) for done in by_crowd.values()])
            for name in CONTENDERS
        ]

    return [
        Panel(title, curves(lambda measured: measured.rate), "dispatchers", "jobs a second"),
        Panel(title, curves(lambda measured: measured.p99), "dispatchers", "a dispatch, p99, ms"),
    ]


def row(ours: Sequence[Round], rounds: Sequence[Round]) -> list[Figure]:
    """The figures of one contender."""
    return [
        Figure.of([measured.rate for measured in rounds]),
        ratio(ours, rounds),
        Figure.of([measured.p50 for measured in rounds]),
        Figure.of([measured.p99 for measured in rounds]),
    ]


if __name__ == "__main__":
    main()
