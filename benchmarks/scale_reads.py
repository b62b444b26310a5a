"""Scale: commands, pages and a scrape read a fleet of 2,000 nodes with many lines.

The fastest of several reads counts, because a busy machine delays the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations, cycle, islice, product

from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.scale_fleet import DAY, FULL, Fleet, Row, Sizes, ask, names, running_first
from benchmarks.workers import ROOT
from celery_minsched import DispatchRequest
from celery_minsched.monitor.metrics import SchedulerCollector
from celery_minsched.monitor.queries import Views
from celery_minsched.web.pages import PAGES
from celery_minsched.web.table_request import FIRST_ROWS
from tests.support.fleet import app_environment

POOLS, SLOTS = names("pool-", 20), 4
CAPABILITIES = names("cap-", 40)
PAIRS = list(combinations([f"l{chr(97 + number)}" for number in range(20)], 2))
MESSAGE = 1000  # bytes
TIMES = {"node_ttl": DAY, "lease": DAY, "history_ttl": 2 * DAY}
Read = Callable[[Fleet], None]


def page(name: str) -> Read:
    """The data of a page as Flower sends it."""
    return lambda fleet: _answer(name, fleet.views)


def _answer(name: str, views: Views) -> None:
    json.dumps(PAGES[name](views, "", FIRST_ROWS))


def scrape(fleet: Fleet) -> None:
    """One scrape of the exporter."""
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: fleet.views))
    generate_latest(registry)


def command(*words: str) -> Read:
    """A command of ``celery -A app minsched`` in its own process."""
    program = [sys.executable, "-m", "celery", "-A", "tests.support.app", "minsched", *words]

    def read(fleet: Fleet) -> None:
        subprocess.run(
            program,
            cwd=ROOT,
            env=app_environment(fleet.server.url, **TIMES),
            stdout=subprocess.DEVNULL,
            check=True,
        )

    return read


#: Each read, its limit in seconds at all sizes, and the number of tries.
READS: dict[str, tuple[Read, float, int]] = {
    "exporter scrape": (scrape, 0.5, 3),
    "Flower's nodes": (page("nodes"), 0.3, 3),
    "Flower's waiting": (page("waiting"), 0.3, 3),
    "Flower's pools": (page("pools"), 0.3, 3),
    "top --once": (command("top", "--once"), 2.0, 2),
    "check": (command("check"), 15.0, 1),
}


def reads(sizes: Sizes) -> Iterator[Row]:
    """Each read with three numbers of lines."""
    nodes = min(2000, sizes.nodes)
    for lines in sorted({10, sizes.few, sizes.lines}):
        with Fleet(**TIMES) as fleet:
            _fill(fleet, nodes, lines, sizes.waiting)
            size = f"{nodes:,} nodes, {lines:,} lines, {sizes.waiting:,} wait"
            for name, (read, limit, times) in READS.items():
                with fleet.measured() as run, running_first():
                    seconds = min(_seconds(read, fleet) for _ in range(times))
                yield run.row(
                    name,
                    size,
                    f"{seconds:.2f} s of {limit} s",
                    seconds <= limit or sizes is not FULL,
                )


def _seconds(read: Read, fleet: Fleet) -> float:
    began = time.perf_counter()
    read(fleet)
    return time.perf_counter() - began


def _fill(fleet: Fleet, nodes: int, lines: int, waiting: int) -> None:
    """A full fleet with jobs in lines.

    Each node has four of the capabilities. Half of the pools serve some language pairs.
    """
    for number in range(nodes):
        at = number % len(POOLS)
        offer = {"id": POOLS[at], "langs": PAIRS[at :: len(POOLS)] if at % 2 else []}
        chosen = {CAPABILITIES[number * step % len(CAPABILITIES)] for step in (1, 3, 7, 11)}
        fleet.add_node(f"node-{number}", SLOTS, [offer], sorted(chosen))
    fleet.send_each(islice(cycle(ask(pool=pool) for pool in POOLS), nodes * SLOTS), MESSAGE)
    fleet.send_each(islice(cycle(_demands(lines)), waiting), MESSAGE)


def _demands(lines: int) -> list[DispatchRequest]:
    """A demand for each line: a pool or a language pair, and up to four capabilities."""
    sets = (chosen for size in range(5) for chosen in combinations(CAPABILITIES, size))
    places = [
        *({"pool": pool} for pool in POOLS),
        *({"src_lang": src, "tgt_lang": tgt} for src, tgt in PAIRS),
    ]
    return [
        ask(capabilities=list(chosen), payload_json='{"task": "t"}', **place)
        for chosen, place in islice(product(sets, places), lines)
    ]


CASES = (reads,)
