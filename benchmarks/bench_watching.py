"""What do ``top``, Flower's pages and a Prometheus scrape cost a busy fleet?

The server has 1,000 nodes, 8,000 running jobs and 2,000 waiting jobs. Three watchers read it once a
second, each in its own process: ``top``, the pages, and a scrape. Rounds with and without watchers
take turns. A round dispatches and completes one job after the other. The results are the commands
and the CPU time of one read, and the slowest command of the watchers (``SLOWLOG``). Another result
is the additional time of a job while the watchers read, for its caller and in the server. Other
work on the machine makes the figures inaccurate.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from statistics import median

import click
import redis
from prometheus_client import CollectorRegistry, generate_latest

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
)
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.metrics import SchedulerCollector
from celery_minsched.monitor.queries import Views
from celery_minsched.monitor.snapshot import take_snapshot
from celery_minsched.web.pages import PAGES
from celery_minsched.web.table_request import FIRST_ROWS
from tests.support.server import Server

NODES, SLOTS, IN_LINE = 1000, 8, 2000
DAY = 86400.0  # seconds. These nodes have no processes
LOGGED = 200  # µs. SLOWLOG keeps slower commands
WATCHER = "watcher"


def top(views: Views) -> None:
    """Read the data of ``celery -A app minsched top``."""
    take_snapshot(views)


def page(views: Views) -> None:
    """Read the data of all pages of Flower."""
    for name in ("nodes", "pools", "waiting", "events"):
        PAGES[name](views, "", FIRST_ROWS)


def prometheus(views: Views) -> None:
    """One scrape."""
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: views))
    generate_latest(registry)


WATCHERS = (top, page, prometheus)


def watch(read: Callable[[Views], None], port: int, watching: Event) -> None:
    """Read once a second while the event is set."""
    os.nice(19)  # as if it ran on another machine
    client = redis.Redis(port=port, client_name=WATCHER)
    keys = MinimalSchedulerService(client).keys
    while True:
        watching.wait()
        began = time.monotonic()
        read(Views(client, keys))
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))


def fill(service: MinimalSchedulerService) -> None:
    """Create a full pool with a line, and a pool for the measured jobs."""
    for number in range(NODES - 1):
        register(service, f"n{number}", SLOTS, ["asr", f"p{number % 20}"])
    register(service, "free", 100, ["free"])
    demand = {"pool": "asr", "when_full": "wait", "payload_json": json.dumps({"task": "t"})}
    for number in range((NODES - 1) * SLOTS + IN_LINE):
        request = DispatchRequest(session_id=f"u{number % 500}", task_id=f"t{number}", **demand)  # type: ignore[arg-type]
        [job] = service.dispatch_tasks([(request, ('{"job_id": ', "}"))])
        assert isinstance(job, DispatchResponse)
        if job.node_id:
            service.claim_job(job.job_id, job.node_id)


def register(service: MinimalSchedulerService, node_id: str, slots: int, pools: list[str]) -> None:
    service.register_node(
        RegisterNodeRequest(node_id=node_id, max_jobs=slots, pools_json=json.dumps(pools))
    )


def work(service: MinimalSchedulerService, seconds: float) -> tuple[float, float]:
    """Dispatch and complete jobs. Returns the time of a job and its server time in seconds."""
    service.redis.config_resetstat()
    jobs, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        job = service.dispatch_task(DispatchRequest(pool="free"))
        service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
        )
        jobs += 1
    scripts = service.redis.info("commandstats")["cmdstat_evalsha"]["usec"] / 1e6
    return elapsed / jobs, scripts / jobs


def slowest(client: redis.Redis) -> tuple[float, str]:
    """The slowest command of the watchers in the slow log, in ms."""
    commands = (
        (entry["duration"] / 1000, entry["command"].decode(errors="replace")[:60])
        for entry in client.slowlog_get(10_000)
        if entry["client_name"] == WATCHER.encode()
    )
    return max(commands, default=(LOGGED / 1000, "none was logged"))


@contextmanager
def watchers(port: int) -> Iterator[Event]:
    """The processes of the watchers. They read while the event is set."""
    context = multiprocessing.get_context("spawn")
    watching = context.Event()
    processes = [
        context.Process(target=watch, args=(read, port, watching), daemon=True) for read in WATCHERS
    ]
    for process in processes:
        process.start()
    try:
        yield watching
    finally:
        for process in processes:
            process.kill()
            process.join()


def print_costs(client: redis.Redis, views: Views) -> None:
    """Print the cost of one read of each watcher on a server without other load.

    The shortest of five reads counts, because a busy machine can pause the server.
    """
    for read in WATCHERS:
        print(min(cost_of(client, views, read) for _ in range(5))[1])


def cost_of(client: redis.Redis, views: Views, read: Callable[[Views], None]) -> tuple[float, str]:
    """The longest pause of the server during one read, in ms, and its other figures as text."""
    client.config_resetstat()
    before, began = server_cpu(client), time.perf_counter()
    read(views)
    elapsed, busy = time.perf_counter() - began, server_cpu(client) - before
    calls = sum(stat["calls"] for stat in client.info("commandstats").values())
    loop = client.info("debug")
    longest_pause = loop["eventloop_duration_max"] / 1000
    return longest_pause, (
        f"{read.__name__:>11}: {calls:6,} commands, {1000 * busy:3.0f} ms of the server's CPU in "
        f"{1000 * elapsed:4.0f} ms; at most {longest_pause:.1f} ms and "
        f"{loop['eventloop_cmd_per_cycle_max']} commands at a time"
    )


def server_cpu(client: redis.Redis) -> float:
    """Processor time of the server in seconds."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


@click.command(help=__doc__)
@click.option("--rounds", default=10, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Seconds of each round.")
def main(rounds: int, seconds: float) -> None:
    with ExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        client = redis.Redis(port=server.port)
        service = MinimalSchedulerService(
            client, Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY)
        )
        fill(service)
        views = Views(client, service.keys)
        print(f"{len(views.nodes())} nodes, {views.waiting_count()} in line")
        print_costs(client, views)
        client.config_set("slowlog-max-len", 10_000)
        client.config_set("slowlog-log-slower-than", LOGGED)
        client.slowlog_reset()
        watching = stack.enter_context(watchers(server.port))
        alone, watched = [], []
        for _ in range(rounds):
            watching.clear()
            time.sleep(1)  # wait for the end of the last read
            alone.append(work(service, seconds))
            watching.set()
            watched.append(work(service, seconds))
        duration, command = slowest(client)
    print(f"slowest command of a watcher: {duration:.2f} ms ({command})")
    for title, index in (("a job, in the caller", 0), ("a job, in the server", 1)):
        before, after = (median(r[index] for r in rounds) for rounds in (alone, watched))
        ratios = median(w[index] / a[index] for a, w in zip(alone, watched, strict=True))
        print(
            f"{title}: {1e6 * before:.0f} µs alone, {1e6 * after:.0f} µs watched; "
            f"ratio of neighbouring rounds, median: {ratios:.3f}"
        )


if __name__ == "__main__":
    main()
