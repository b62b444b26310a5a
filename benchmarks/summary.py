"""The goals of the project, and their measurements.

A section runs one benchmark and returns rows. The contenders take turns. A ratio compares two
figures of the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from benchmarks import (
    bench_apply,
    bench_bulk,
    bench_bytes,
    bench_dispatch,
    bench_locks,
    bench_node,
    bench_trace,
)
from benchmarks.bench_node import Tasks
from benchmarks.common import Figure, check
from benchmarks.least_pair import COMPLETE_AND_CLAIM, print_ratio, print_steps, step_costs
from benchmarks.replay import Replay, requests_of
from benchmarks.row import Row
from celery_minsched.monitor.queries import Views
from tests.support.server import Server

TASKS = Tasks(noops=1000, naps=200)


@dataclass(frozen=True)
class Extent:
    """The sizes of the measurements. The defaults take 15 minutes on two cores."""

    rounds: int = 5
    calls: int = 500  # of apply_async in a round
    jobs: int = 500  # dispatched in a round
    fleets: Sequence[int] = (10, 10_000)  # nodes
    batch: int = 1000  # tasks of dispatch_many
    messages: int = 20  # of 1 MB
    seconds: float = 2.0  # of a round of dispatchers
    dispatchers: int = 16
    nodes: int = 100
    pools: Sequence[str] = bench_node.POOLS
    contenders: Sequence[str] = bench_node.KINDS
    worker_rounds: int = 3
    tasks: Tasks = TASKS
    one_slot_naps: int = 60
    replay_seconds: float = 60.0
    work: float = 0.5  # seconds of a replayed job


SHORT = Extent(
    rounds=2,
    calls=20,
    jobs=20,
    fleets=(10, 20),
    batch=5,
    messages=2,
    seconds=0.2,
    dispatchers=4,
    nodes=5,
    pools=("threads",),
    contenders=("ours", "plain", "tuned"),
    worker_rounds=1,
    tasks=Tasks(warm=4, noops=20, naps=8),
    one_slot_naps=4,
    replay_seconds=1.0,
    work=0.05,
)


def dispatch_rows(extent: Extent) -> list[Row]:
    """The server's time for a dispatch and a completion."""
    with ExitStack() as stack:
        fleets = [stack.enter_context(bench_dispatch.fleet(size)) for size in extent.fleets]
        bench_dispatch.measure(fleets, extent.rounds, extent.jobs)
        for fleet in fleets:
            check(Views(fleet.service.redis, fleet.service.keys))
        costs = step_costs(fleets[0].service.redis, extent.jobs)
    print_steps(costs)
    small, large = fleets[0], fleets[-1]
    least = Figure.of([pair / least for pair, least in zip(small.pair, small.least, strict=True)])
    growth = Figure.of([many / few for few, many in zip(small.pair, large.pair, strict=True)])
    print_ratio(small.pair, small.least)
    commands, _ = costs[COMPLETE_AND_CLAIM]
    pair = "server time of dispatch + complete"
    return [
        Row(f"{pair} ÷ the least pair of scripts", "≤", 2.0, least),
        Row("commands of a completion that claims the next job", "≤", 30, Figure.of([commands])),
        Row(f"{pair}, {large.nodes:,} nodes ÷ {small.nodes:,}", "≤", 1.10, growth),
    ]


def apply_rows(extent: Extent) -> list[Row]:
    """The time of a call."""
    rounds_of = bench_apply.measure_all(extent.calls, extent.rounds)
    bench_apply.print_rounds(rounds_of, extent.calls)
    rows = []
    for way in rounds_of:
        if way != bench_apply.PLAIN:
            p50 = bench_apply.ratio(way, rounds_of, lambda measured: measured.p50)
            p99 = bench_apply.ratio(way, rounds_of, lambda measured: measured.p99)
            rows.append(Row(f"apply_async ÷ plain, {way}, p50", "≤", 1.10, p50))
            rows.append(Row(f"apply_async ÷ plain, {way}, p99", "≤", 1.20, p99))
    return rows


def bulk_rows(extent: Extent) -> list[Row]:
    """The time of many calls at once."""
    with closing(Server()) as server:
        by_state = {
            f"slots {state}": bench_bulk.measure(
                server, server.port, slots, extent.batch, extent.rounds
            )
            for state, slots in bench_bulk.SLOTS.items()
        }
    bench_bulk.print_times(by_state, extent.batch)
    return [
        Row(
            f"dispatch_many ÷ a loop of plain calls, {state}, tasks a second",
            "≥",
            8,
            bench_bulk.faster(times, bench_bulk.PLAIN),
        )
        for state, times in by_state.items()
    ]


def bytes_rows(extent: Extent) -> list[Row]:
    """The bytes that a node sends."""
    figure = Figure.of([bench_bytes.measure("ours", extent.messages, bench_bytes.SIZE)])
    name = "bytes that a node sends to Redis for a message of 1 MB"
    return [Row(name, "≤", 2000, figure, show="{:,.0f}".format)]


def locks_rows(extent: Extent) -> list[Row]:
    """Dispatchers, compared with a mutex in one process."""
    with bench_locks.dispatchers() as ends, bench_locks.contenders(extent.nodes) as ports:
        ports = {name: ports[name] for name in ("ours", bench_locks.MUTEX)}
        done = bench_locks.measure_all(
            ends, ports, extent.dispatchers, extent.rounds, extent.seconds
        )
    bench_locks.print_rounds(extent.nodes, {extent.dispatchers: done})
    ratio = bench_locks.ratio(done["ours"], done[bench_locks.MUTEX])
    name = f"{extent.dispatchers} dispatchers ÷ a mutex in one process, {extent.nodes} nodes"
    return [Row(name, "≥", 1.0, ratio)]


def node_rows(extent: Extent) -> list[Row]:
    """A node, compared with other workers. Prints the table of all contenders, too."""
    kinds = ("ours", "tuned", "plain")
    others = [kind for kind in extent.contenders if kind not in kinds]
    rows, details = [], []
    for pool in extent.pools:
        runs = bench_node.measure_all(kinds, pool, 4, extent.tasks, extent.worker_rounds)
        details += bench_node.rows(runs, pool)
        if others:
            of_others = bench_node.measure_all(["ours", *others], pool, 4, extent.tasks, 1)
            details += bench_node.rows(of_others, pool)[1:]
        for kind, limit in (("tuned", 1.20 if pool == "prefork" else 1.10), ("plain", 1.0)):
            name = f"no-ops a second of a node ÷ {_CELERY[kind]}, {pool}"
            ratio = bench_node.ratios(runs, kind, lambda run: run.rate)
            rows.append(Row(name, "≥", limit, ratio))
        one_slot = bench_node.measure_all(
            kinds[:2], pool, 1, Tasks(4, 0, extent.one_slot_naps), extent.worker_rounds
        )
        for slots, of_slots in ((1, one_slot), (4, runs)):
            name = f"idle time between two tasks ÷ {_CELERY['tuned']}, {pool}, slots: {slots}"
            gap = bench_node.ratios(of_slots, "tuned", lambda run: run.gap)
            rows.append(Row(name, "≤", 0.9, gap))
    bench_node.print_runs(details, extent.tasks, 4)
    return rows


_CELERY = {"tuned": "tuned Celery", "plain": "Celery with its defaults"}


def trace_rows(extent: Extent) -> list[Row]:
    """A replay, compared with tuned Celery and with an ideal queue."""
    requests, of = requests_of(None)
    seconds, work = extent.replay_seconds, extent.work
    replays = {
        name: bench_trace.measure(scenario, ("ours", "tuned"), requests, seconds, work)
        for name, scenario in bench_trace.SCENARIOS.items()
    }
    bench_trace.print_replays(replays, f"Jobs of {of} in {seconds:g} s, mean work {work:g} s")
    return [
        Row(
            f"replay ÷ ideal, {name}, {figure}",
            "≤",
            limit or round(_RATIOS[figure](of_kinds["tuned"]), 2),
            Figure.of([_RATIOS[figure](of_kinds["ours"])]),
            beside="" if limit else "tuned's ",
            show="{:.2f}".format,
        )
        for name, of_kinds in replays.items()
        for figure, limit in TRACE_LIMITS[name].items()
    ]


_RATIOS: Mapping[str, Callable[[Replay], float]] = {
    "mean": lambda measured: measured.mean_ratio,
    "p99": lambda measured: measured.p99_ratio,
}
#: The limit of each figure. ``None``: the figure of tuned Celery in the same run.
TRACE_LIMITS: Mapping[str, Mapping[str, float | None]] = {
    "one pool": {"mean": None},
    "two pools that overlap": {"mean": 1.04, "p99": 1.05},
    "two pools, overloaded": {"mean": None, "p99": None},
}

SECTIONS: Mapping[str, Callable[[Extent], list[Row]]] = {
    "node": node_rows,
    "apply": apply_rows,
    "dispatch": dispatch_rows,
    "bulk": bulk_rows,
    "bytes": bytes_rows,
    "trace": trace_rows,
    "locks": locks_rows,
}
