"""How long does ``celery -A app minsched check`` take of a large fleet with a long line?

A server is filled with full nodes, and with jobs that wait in so many lines. The command runs as a
process of its own, so its time and its memory are as an operator sees them. Beside them stands the
longest single command in SLOWLOG. While that runs, Redis serves no other client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click
import redis

from benchmarks.common import machine, print_table, say
from celery_minsched import (
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
)
from tests.server import Server

DAY = 86400.0  # seconds; no process is behind these nodes
NODES, SLOTS, WAITING, POOLS = 2000, 4, 100_000, 10
PAGE = 100  # jobs in one call
LOGGED = 1000  # µs; the slow log takes what is slower
COLUMNS = ["lines", "check, s", "memory, MB", "longest command, ms"]

APP = """
from celery import Celery
from celery_minsched import MinSched
app = Celery("app", broker="{url}")
MinSched(app)
"""


class Row(NamedTuple):
    """One run of the command."""

    lines: int
    seconds: float
    #: Its largest resident set, of which the Celery command takes some 60 MB with no jobs.
    megabytes: float
    longest_ms: float
    exit_code: int


def demands(count: int, lines: int) -> Iterator[DispatchRequest]:
    """So many jobs over so many lines: capabilities make more than the pools."""
    for number in range(count):
        line = number % lines
        pool, capability = line % POOLS, line // POOLS
        yield DispatchRequest(
            pool=f"pool{pool}",
            capabilities=[f"cap{capability}"] if capability else [],
            session_id=f"user-{number % 1000}",
            task_id=f"00000000-0000-4000-8000-{number:012}",
            when_full="wait",
        )


def fill(client: redis.Redis, lines: int, nodes: int = NODES, waiting: int = WAITING) -> None:
    """Nodes that are full, and jobs in line with a message of 1 KB each."""
    settings = Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY, max_waiting=10**6)
    service = MinimalSchedulerService(client, settings)
    for number in range(nodes):
        service.register_node(
            RegisterNodeRequest(
                node_id=f"node-{number:05}",
                max_jobs=SLOTS,
                pools_json=f'["pool{number % POOLS}"]',
                cap_json=f'["cap{1 + number // POOLS}"]',
            )
        )
    taking = (
        DispatchRequest(pool=f"pool{number % POOLS}", task_id=f"taken-{number}", when_full="wait")
        for number in range(nodes * SLOTS)
    )
    message = ('{"body": "' + "x" * 1000 + '", "job_id": ', "}")
    for jobs in (taking, demands(waiting, lines)):
        while page := [job for job, _ in zip(jobs, range(PAGE), strict=False)]:
            service.dispatch_tasks([(job, message) for job in page])


def run_check(server: Server, lines: int) -> Row:
    """The command as an operator runs it."""
    path = f"{server.directory.name}/scale_app.py"
    with open(path, "w") as file:
        file.write(APP.format(url=server.url))
    command = [sys.executable, "-m", "celery", "-A", "scale_app", "minsched", "check"]
    paths = os.pathsep.join([server.directory.name, os.getcwd()])
    with server.client() as client:
        client.config_set("slowlog-log-slower-than", LOGGED)
        client.config_set("slowlog-max-len", 10_000)
        client.slowlog_reset()
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        longest = max((entry["duration"] for entry in client.slowlog_get(10_000)), default=0)
    return Row(lines, seconds, usage.ru_maxrss / 1024, longest / 1000, process.returncode)


def rows(
    lines: Iterable[int], nodes: int = NODES, waiting: int = WAITING, rounds: int = 1
) -> Iterator[Row]:
    """A row for each number of lines, the quickest of so many runs."""
    for number in lines:
        server = Server()
        try:
            with server.client() as client:
                fill(client, number, nodes, waiting)
            yield min((run_check(server, number) for _ in range(rounds)), key=lambda r: r.seconds)
        finally:
            server.close()


@click.command()
@click.option("--nodes", default=NODES, type=click.IntRange(1))
@click.option("--waiting", default=WAITING, type=click.IntRange(1), help="Jobs in line.")
@click.option("--lines", default=(10, 5000, 50_000), multiple=True, type=click.IntRange(1))
def main(nodes: int, waiting: int, lines: tuple[int, ...]) -> None:
    """Seconds, memory and the longest command of `check`."""
    server = Server()
    with server.client() as client:
        say(machine(client))
    server.close()
    cells = [
        [f"{row.lines:,}", f"{row.seconds:.1f}", f"{row.megabytes:.0f}", f"{row.longest_ms:.1f}"]
        for row in rows(lines, nodes, waiting)
    ]
    print_table(f"check, {nodes:,} nodes, {waiting:,} jobs in line", COLUMNS, cells)


if __name__ == "__main__":
    main()
