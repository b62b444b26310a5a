"""Prometheus metrics of the scheduler, made from :mod:`celery_minsched.monitor.queries`.

Each scrape reads Redis and stores nothing. So several processes can serve the same metrics, and a
metric ends when its node or pool is no longer in Redis. No label contains a task, a job or a
session. A scrape reads a bounded number of lines (``MOST_LINES``). The largest of them
(:data:`MOST_DEMANDS`) have their own series. Totals count all lines.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from redis.exceptions import RedisError

from ..core.errors import WrongLayout
from ..core.field_types import RESOURCES
from ..core.lua_source import numbers
from ..core.printing import printable
from ..core.statuses import ENDED
from .lines import MOST_LINES
from .models import NODE_DESCRIPTION, NODE_STATES, LineView, NodeView, PoolView, ServerView
from .queries import Views

logger = logging.getLogger(__name__)

#: The demands with most waiting jobs have their own series. The demand ``(other)`` stands for the
#: rest: the combinations of pools, capabilities and required nodes have no bound.
MOST_DEMANDS = 50
OTHER = "(other)"  # neither a demand nor a pool: a pool's name has no brackets

#: The pools with most slots have their own series. Nodes name their pools.
MOST_POOLS = 1000

#: The pools without nodes for which most jobs wait have their own series. A job can name any pool,
#: for example after a typing error.
MOST_EMPTY_POOLS = 50

#: Upper bounds of the wait histogram, ms.
WAIT_BUCKETS = numbers("events", "WAIT_BUCKETS")

#: The outcomes of a dispatch: the names of the counters, and the values of the label. The first
#: scrape has all of them, because a rate does not see the first step of a new series.
OUTCOMES = {
    name: name.lower()
    for name in (
        *("preferred", "sticky", "least_loaded", "first_free"),
        *("busy", "impossible", "delayed"),
        *("NO_AVAILABLE_NODE", "EMPTY_POOL", "NO_POOL_FOR_LANG_PAIR", "BACKLOGGED"),
    )
}
_SUMMED = ("nodes", "online", "slots", "taken", "leaving", "waiting")
STATUSES = (*ENDED, "unsent")

#: Labels of the metric that describes nodes: the texts of a node's description.
NODE_LABELS = tuple(
    name for name in NODE_DESCRIPTION if NodeView.model_fields[name].annotation is str
)


class SchedulerCollector(Collector):
    """The metrics of one scheduler. Each scrape calls ``views`` and reads Redis.

    ``views`` raises redis-py's ``ConnectionError`` if Redis is unreachable. If Redis does not
    answer, has another layout or is unreadable, the only metric is ``minsched_up`` with the value
    0. So a page that also has other metrics, such as Flower's, still answers the scrape.
    """

    def __init__(self, views: Callable[[], Views]) -> None:
        self._views = views

    def describe(self) -> Iterable[Metric]:
        """Returns nothing. Without this method a registry makes a scrape to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        up = "1 if Redis answered this scrape and its records are readable, else 0."
        began = time.perf_counter()
        try:
            metrics = [_printable(metric) for metric in _metrics(self._views())]
        except (RedisError, WrongLayout) as exc:
            logger.warning("The scrape cannot read the scheduler: %s", exc)
            yield GaugeMetricFamily("minsched_up", up, value=0)
            return
        except Exception:  # a page that also has other metrics still answers the scrape
            logger.exception("The scrape failed")
            yield GaugeMetricFamily("minsched_up", up, value=0)
            return
        yield GaugeMetricFamily("minsched_up", up, value=1)
        yield from metrics
        yield GaugeMetricFamily(
            "minsched_scrape_duration_seconds",
            "The time in which this scrape read Redis.",
            value=time.perf_counter() - began,
        )


def _printable(metric: Metric) -> Metric:
    """The metric with printable labels.

    Prometheus refuses two series with the same labels, so one of them stays.
    """
    if all(text.isprintable() for sample in metric.samples for text in sample.labels.values()):
        return metric
    samples: dict[object, Sample] = {}
    for sample in metric.samples:
        labels = {name: printable(text) for name, text in sample.labels.items()}
        samples.setdefault((sample.name, *labels.items()), sample._replace(labels=labels))
    metric.samples = list(samples.values())
    return metric


def _metrics(views: Views) -> Iterator[Metric]:
    nodes, waiting = views.nodes(), views.waiting_counts()
    pools = _with_series(views.pools(nodes, waiting))
    yield from _of_nodes(nodes, {pool.pool for pool in pools})
    yield from _of_pools(pools)
    yield from _of_lines(views.lines(MOST_LINES), sum(waiting.values()), views.now())
    yield from _of_counts(
        views.counts_of(["", *(pool.pool for pool in pools if pool.pool != OTHER)])
    )
    yield from _of_server(views.server())


def _of_nodes(nodes: Iterable[NodeView], pools: set[str]) -> Iterator[Metric]:
    """The metrics of nodes. ``pools`` have their own series.

    A dead node is down until it is removed, and has no other series. A node that has left has none.
    """
    nodes = list(nodes)
    states = Counter(node.state for node in nodes)
    count = GaugeMetricFamily("minsched_nodes", "Nodes in each state.", labels=["state"])
    for word in NODE_STATES:
        count.add_metric([word], states[word])
    up = GaugeMetricFamily(
        "minsched_node_up",
        "1 while the node sends heartbeats, 0 when it is dead.",
        labels=["node"],
    )
    state = GaugeMetricFamily(
        "minsched_node_state", "1 for the node's state.", labels=["node", "state"]
    )
    info = InfoMetricFamily(
        "minsched_node",
        "A pool of the node. Use it to join node metrics with pools.",
        labels=["node", "pool", *NODE_LABELS],
    )
    draining = GaugeMetricFamily(
        "minsched_node_draining", "1 if an operator drained the node.", labels=["node"]
    )
    slots = GaugeMetricFamily("minsched_node_slots", "Slots of the node.", labels=["node"])
    taken = GaugeMetricFamily(
        "minsched_node_slots_taken", "Slots of the node that jobs hold.", labels=["node"]
    )
    load = GaugeMetricFamily(
        "minsched_node_load_ratio", "The last reported load, 0 to 1.", labels=["node", "resource"]
    )
    for node in nodes:
        if node.state != "left":
            up.add_metric([node.node_id], int(node.heartbeats_arriving))
        if not node.heartbeats_arriving:
            continue
        state.add_metric([node.node_id, node.state], 1)
        for pool in pools.intersection(node.pools):
            texts = (getattr(node, name) for name in NODE_LABELS)
            info.add_metric([node.node_id, pool, *texts], {})
        draining.add_metric([node.node_id], int(node.draining))
        slots.add_metric([node.node_id], node.max_jobs)
        taken.add_metric([node.node_id], node.current_jobs)
        for resource in RESOURCES:
            if node.load.get(resource) is not None:
                load.add_metric([node.node_id, resource], node.load[resource] / 100)
    yield from (count, up, state, info, draining, slots, taken, load)


def _with_series(pools: list[PoolView]) -> list[PoolView]:
    """The MOST_POOLS pools with most slots, and the MOST_EMPTY_POOLS pools without nodes for which
    most jobs wait. The pool OTHER is the sum of all others.
    """
    pools_with_nodes = sorted((pool for pool in pools if pool.nodes), key=lambda pool: -pool.slots)
    empty = sorted((pool for pool in pools if not pool.nodes), key=lambda pool: -pool.waiting)
    names = {pool.pool for pool in (*pools_with_nodes[:MOST_POOLS], *empty[:MOST_EMPTY_POOLS])}
    with_series = [pool for pool in pools if pool.pool in names]
    others = [pool for pool in pools if pool.pool not in names]
    if others:
        sums = {name: sum(getattr(pool, name) for pool in others) for name in _SUMMED}
        with_series.append(PoolView(pool=OTHER, paused=False, langs=[], **sums))
    return with_series


def _of_pools(pools: list[PoolView]) -> Iterator[Metric]:
    def gauge(name: str, text: str, value: Callable[[PoolView], float]) -> Metric:
        family = GaugeMetricFamily(f"minsched_pool_{name}", text, labels=["pool"])
        for pool in pools:
            family.add_metric([pool.pool], value(pool))
        return family

    yield gauge(
        "nodes", "Nodes of the pool that take jobs or are drained.", lambda pool: pool.online
    )
    yield gauge("slots", "Slots of the pool's nodes that take jobs.", lambda pool: pool.slots)
    yield gauge("slots_taken", "Slots of these nodes that jobs hold.", lambda pool: pool.taken)
    yield gauge(
        "leaving_jobs",
        "Jobs at the pool's draining, stopping, stuck and dead nodes.",
        lambda pool: pool.leaving,
    )
    yield gauge(
        "waiting_jobs",
        "Jobs in line that the pool can serve. A job that several pools can serve counts in each.",
        lambda pool: pool.waiting,
    )
    yield gauge(
        "load_ratio",
        "(slots taken + waiting jobs) / slots, for autoscaling. With no slot, the waiting jobs.",
        lambda pool: pool.load,
    )
    yield gauge("paused", "1 if an operator paused the pool.", lambda pool: pool.paused)


def _of_lines(lines: Iterable[LineView], total: int, now: int) -> Iterator[Metric]:
    """The jobs of the ``total`` that wait in none of the ``lines`` count for other demands."""
    waiting: Counter[str] = Counter()
    since: dict[str, int] = {}
    impossible = 0
    ranked = sorted(lines, key=lambda line: (-line.waiting, line.demand))
    for rank, line in enumerate(ranked):
        demand = line.demand if rank < MOST_DEMANDS else OTHER
        waiting[demand] += line.waiting
        since[demand] = min(since.get(demand, now), line.oldest_ts or now)
        impossible += 0 if line.possible else line.waiting
    if len(ranked) >= MOST_LINES:
        waiting[OTHER] += max(total - waiting.total(), 0)
    jobs = GaugeMetricFamily("minsched_waiting_jobs", "Jobs in line.", labels=["demand"])
    oldest = GaugeMetricFamily(
        "minsched_oldest_waiting_seconds",
        "The wait of the first job in line. With priorities or fair turns, others may wait longer.",
        labels=["demand"],
    )
    for demand, number in waiting.items():
        jobs.add_metric([demand], number)
        oldest.add_metric([demand], max(now - since[demand], 0) / 1000)
    yield from (jobs, oldest)
    yield GaugeMetricFamily(
        "minsched_impossible_jobs",
        f"Jobs in line that no registered node can run, in at most {MOST_LINES} lines.",
        value=impossible,
    )


def _of_counts(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    """Metrics of the counters by pool. The pool "" has the counters of jobs without a pool."""
    dispatches = CounterMetricFamily(
        "minsched_dispatches",
        "Jobs that got a slot (preferred, sticky, least_loaded; first_free after a wait), wait "
        "(busy, impossible, delayed) or were refused.",
        labels=["pool", "outcome"],
    )
    ended = CounterMetricFamily(
        "minsched_jobs_ended",
        "Ended jobs. Lost: their node died while they ran. Unsent: their publisher failed.",
        labels=["pool", "status"],
    )
    waits = HistogramMetricFamily(
        "minsched_wait_seconds",
        "The time that jobs waited in line, of the jobs that waited.",
        labels=["pool"],
    )
    moves = CounterMetricFamily(
        "minsched_session_moves",
        "Jobs that went to another node than the last job of their session.",
        labels=["pool"],
    )
    for pool, count in counts.items():
        for name, outcome in OUTCOMES.items():
            dispatches.add_metric([pool, outcome], count.get(name, 0))
        for status in STATUSES:
            ended.add_metric([pool, status], count.get(status, 0))
        if pool:
            waits.add_metric([pool], _buckets(count), count.get("waited_ms", 0) / 1000)
            moves.add_metric([pool], count.get("session_moves", 0))
    yield from (dispatches, ended, waits, moves)
    fleet = counts[""]
    yield CounterMetricFamily(
        "minsched_node_deaths", "Nodes that died.", value=fleet.get("node_deaths", 0)
    )
    yield CounterMetricFamily(
        "minsched_rescues",
        "Dead nodes whose jobs were all placed again or reported lost.",
        value=fleet.get("rescues", 0),
    )


def _buckets(count: Mapping[str, int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound / 1000) for bound in WAIT_BUCKETS), "+Inf"]
    numbers = [count.get(f"waited:{bound}", 0) for bound in (*WAIT_BUCKETS, "inf")]
    return list(zip(bounds, accumulate(numbers), strict=True))


def _of_server(server: ServerView) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "minsched_redis_round_trip_seconds",
        "The time in which Redis answered a PING of this scrape.",
        value=server.round_trip_ms / 1000,
    )
    yield CounterMetricFamily(
        "minsched_redis_commands",
        "Commands of all clients of this Redis, including commands that scripts call.",
        value=server.commands,
    )
    yield CounterMetricFamily(
        "minsched_script_calls", "Calls of scripts in this Redis.", value=server.scripts
    )
    yield CounterMetricFamily(
        "minsched_script_seconds",
        "The time of scripts in this Redis.",
        value=server.script_us / 1e6,
    )
