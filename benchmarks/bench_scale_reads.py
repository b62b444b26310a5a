"""How long does a look at a large fleet take? 2,000 nodes, 100,000 jobs in line, many lines.

The state is made by the scripts, in pipelines. Then each face looks: ``top --once``, one scrape of
the exporter, and the answers of Flower's pages. Told are seconds, the best of some looks, and the
limit of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, islice
from pathlib import Path
from typing import NamedTuple

import click
import redis
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.common import machine, print_table, say
from celery_minsched import (
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
    scripts,
    times,
)
from celery_minsched.job_fields import asked
from celery_minsched.metrics import SchedulerCollector
from celery_minsched.views import Views
from celery_minsched.web.answers import ANSWERS
from celery_minsched.web.paging import FIRST
from tests.server import Server

ROOT = Path(__file__).parents[1]
NODES, POOLS, SLOTS = 2000, 20, 4
JOBS = 100_000
LINES = (10, 5000, 50_000)
CAPABILITIES = [f"cap-{number}" for number in range(40)]
LANGUAGES = [f"l{chr(97 + number)}" for number in range(20)]
DAY = 86400.0  # seconds; no process is behind these nodes


class Look(NamedTuple):
    """What a face takes at a number of lines."""

    face: str
    lines: int
    seconds: float
    limit: float


def register(service: MinimalSchedulerService, nodes: int, pools: int) -> None:
    """Nodes with four of the capabilities each, in pools that serve some language pairs each."""
    pairs = list(combinations(LANGUAGES, 2))
    for number in range(nodes):
        pool = number % pools
        offer = {"id": f"pool-{pool}", "langs": pairs[pool::pools] if pool % 2 else []}
        caps = [CAPABILITIES[(number * step) % len(CAPABILITIES)] for step in (1, 3, 7, 11)]
        service.register_node(
            RegisterNodeRequest(
                node_id=f"node-{number}",
                max_jobs=SLOTS,
                pools_json=json.dumps([offer]),
                cap_json=json.dumps(sorted(set(caps))),
            )
        )


def demands(lines: int, pools: int) -> Iterator[DispatchRequest]:
    """A demand for each of so many lines: a pool or a pair, and up to four capabilities."""
    pairs = list(combinations(LANGUAGES, 2))
    sets = (list(found) for size in (0, 1, 2, 3, 4) for found in combinations(CAPABILITIES, size))
    wheres = [{"pool": f"pool-{number}"} for number in range(pools)] + [
        {"src_lang": src, "tgt_lang": tgt} for src, tgt in pairs
    ]
    all_demands = (
        DispatchRequest(**where, capabilities=caps, when_full="wait", payload_json='{"task": "t"}')  # type: ignore[arg-type]
        for caps in sets
        for where in wheres
    )
    return islice(all_demands, lines)


def dispatch(service: MinimalSchedulerService, requests: list[DispatchRequest], jobs: int) -> None:
    """Dispatches so many jobs, one demand after the other, in pipelines."""
    client, keys = service.redis, service.keys
    calls = [asked(keys, 10**7, request, ('{"job_id": ', "}")) for request in requests]
    client.script_load(scripts.source("dispatch_task"))
    page = 500
    for start in range(0, jobs, page):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + page, jobs)):
                arguments = (service._times, *calls[number % len(calls)])
                scripts.put(pipe, keys, "dispatch_task", *arguments)
            pipe.execute()


def fill(
    client: redis.Redis, nodes: int = NODES, lines: int = 10, jobs: int = JOBS, pools: int = POOLS
) -> Views:
    """A full fleet with so many jobs in so many lines."""
    settings = Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY, max_waiting=10**7)
    service = MinimalSchedulerService(client, settings)
    times.agree(client, service.keys, settings)
    register(service, nodes, pools)
    full = [DispatchRequest(pool=f"pool-{number}", when_full="wait") for number in range(pools)]
    dispatch(service, full, nodes * SLOTS)
    dispatch(service, list(demands(lines, pools)), jobs)
    return Views(client, service.keys, settings)


def scrape(views: Views) -> None:
    """One scrape of the exporter."""
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: views))
    generate_latest(registry)


def page(name: str) -> Callable[[Views], None]:
    """The answer of one of Flower's pages, as Flower sends it."""

    def answer(views: Views) -> None:
        json.dumps(ANSWERS[name](views, "", FIRST))

    return answer


def top(port: int, *options: str) -> None:
    """``celery -A app minsched top --once``, as a process."""
    environment = {
        **os.environ,
        "MINSCHED_TEST_BROKER": f"redis://127.0.0.1:{port}/0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "celery", "-A", "tests.app", "minsched", "top", "--once"]
    subprocess.run(
        [*command, *options], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True
    )


FACES: dict[str, tuple[Callable[[Views], None], float]] = {
    "exporter scrape": (scrape, 0.5),
    "Flower's nodes": (page("nodes"), 0.3),
    "Flower's waiting": (page("waiting"), 0.3),
    "Flower's pools": (page("pools"), 0.3),
}


def best(look: Callable[[], None], times: int = 3) -> float:
    """The seconds of the fastest of some looks: a machine that is busy delays the others."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@contextmanager
def filled(nodes: int, lines: int, jobs: int) -> Iterator[tuple[Server, Views]]:
    """A server with the fleet in it, and its views by a client that decodes nothing."""
    server = Server()
    try:
        with redis.Redis(port=server.port) as client:
            yield server, fill(client, nodes, lines, jobs)
    finally:
        server.close()


def measure(lines: int, nodes: int = NODES, jobs: int = JOBS, with_top: bool = True) -> list[Look]:
    """Each face's look at so many lines."""
    with filled(nodes, lines, jobs) as (server, views):
        looks = [
            Look(face, lines, best(lambda look=look: look(views)), limit)  # type: ignore[misc]
            for face, (look, limit) in FACES.items()
        ]
        if with_top:
            looks.insert(0, Look("top --once", lines, best(lambda: top(server.port)), 2.0))
    return looks


def rows(
    lines: tuple[int, ...] = LINES, nodes: int = NODES, jobs: int = JOBS, with_top: bool = True
) -> list[list[str]]:
    """A row a face: its name, seconds at each number of lines, and the limit."""
    found = [measure(number, nodes, max(jobs, number), with_top) for number in lines]
    return [
        [one[0].face, *(f"{look.seconds:.2f}" for look in one), f"≤ {one[0].limit}"]
        for one in zip(*found, strict=True)
    ]


@click.command(help=__doc__)
@click.option("--nodes", default=NODES, show_default=True)
@click.option("--jobs", default=JOBS, show_default=True, help="In line.")
@click.option("--lines", default=LINES, multiple=True, show_default=True, help="Several times.")
@click.option("--top/--no-top", "with_top", default=True, help="A process, which takes seconds.")
def main(nodes: int, jobs: int, lines: tuple[int, ...], with_top: bool) -> None:
    with filled(1, 1, 1) as (_, views):
        say(machine(views.redis))
    print_table(
        f"{nodes:,} nodes, {jobs:,} jobs in line; seconds a look, by the number of lines",
        ["", *(f"{number:,} lines" for number in lines), "limit"],
        rows(lines, nodes, jobs, with_top),
    )


if __name__ == "__main__":
    main()
