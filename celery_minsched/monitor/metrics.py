"""What Prometheus scrapes: a collector over :mod:`celery_minsched.monitor.queries`.

It asks Redis at each scrape and keeps nothing, so any number of processes may expose the same
figures, and whatever is no longer in Redis is no longer in a scrape. No label is a task, a job or a
session. A scrape looks at a bounded number of lines (``MOST_LINES``), and of these the largest
(:data:`MOST_DEMANDS`) have series of their own. Totals count all lines.
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

from ..core import lua_source
from ..core.errors import WrongLayout
from ..core.printing import printable
from .line_queries import MOST_LINES
from .models import NODE_STATES, LineView, NodeView, PoolView, ServerView
from .queries import Views

logger = logging.getLogger(__name__)

#: Demands that have series of their own, those for which most jobs wait. What others wait for is
#: of the demand ``(other)``: pools, capabilities and required nodes combine without bound.
MOST_DEMANDS = 50
OTHER = "(other)"  # no demand and no pool: a pool's name has no brackets

#: Pools with nodes that have series of their own, those with the most slots. Nodes name pools.
MOST_POOLS = 1000

#: Pools without nodes that have series of their own. Any job may name another, by mistake too.
MOST_EMPTY_POOLS = 50

#: Bounds of the wait histogram, ms.
WAITED = lua_source.numbers("events", "WAIT_BUCKETS")

#: Outcomes of a dispatch, as the scripts count them, and as the label has them. Each is there from
#: the first scrape on: a rate sees no series' first step.
OUTCOMES = {
    name: name.lower()
    for name in (
        *("preferred", "sticky", "least_loaded", "first_free"),
        *("busy", "impossible", "delayed"),
        *("NO_AVAILABLE_NODE", "EMPTY_POOL", "NO_POOL_FOR_LANG_PAIR", "BACKLOGGED"),
    )
}
_SUMMED = ("nodes", "online", "slots", "taken", "leaving", "waiting")
STATUSES = ("finished", "failed", "lost", "unsent")


class SchedulerCollector(Collector):
    """The metrics of one scheduler. Each scrape calls ``views`` and reads Redis.

    ``views`` raises redis-py's ``ConnectionError`` if Redis is unreachable. If Redis does not
    answer, has another layout or is unreadable, the only metric is ``minsched_up`` with the value
    0. So a page that also has other metrics, such as Flower's, still answers the scrape.
    """

    def __init__(self, views: Callable[[], Views]) -> None:
        self._views = views

    def describe(self) -> Iterable[Metric]:
        """Nothing: what registers a collector else makes a scrape of it, to learn its names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        up = "1 if Redis answered this scrape and its records can be read, else 0."
        began = time.perf_counter()
        try:
            metrics = [_in_print(metric) for metric in _metrics(self._views())]
        except (RedisError, WrongLayout) as exc:
            logger.warning("there is nothing to scrape: %s", exc)
            yield GaugeMetricFamily("minsched_up", up, value=0)
            return
        except Exception:  # a page that has other figures too is still scraped
            logger.exception("the scrape failed")
            yield GaugeMetricFamily("minsched_up", up, value=0)
            return
        yield GaugeMetricFamily("minsched_up", up, value=1)
        yield from metrics
        yield GaugeMetricFamily(
            "minsched_scrape_duration_seconds",
            "How long this scrape took to read Redis.",
            value=time.perf_counter() - began,
        )


def _in_print(metric: Metric) -> Metric:
    """The same, with printable labels. Prometheus refuses two series of the same labels, so the
    first of those that look alike stays.
    """
    if all(text.isprintable() for sample in metric.samples for text in sample.labels.values()):
        return metric
    found: dict[object, Sample] = {}
    for sample in metric.samples:
        labels = {name: printable(text) for name, text in sample.labels.items()}
        found.setdefault((sample.name, *labels.items()), sample._replace(labels=labels))
    metric.samples = list(found.values())
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
    """A dead node is down until it is forgotten, and has no other series. A node that has left has
    none. ``pools`` have series of their own.
    """
    nodes = list(nodes)
    states = Counter(node.state for node in nodes)
    count = GaugeMetricFamily("minsched_nodes", "Nodes in each state.", labels=["state"])
    for word in NODE_STATES:
        count.add_metric([word], states[word])
    up = GaugeMetricFamily(
        "minsched_node_up",
        "1 while the node sends heartbeats, 0 once it is dead.",
        labels=["node"],
    )
    state = GaugeMetricFamily(
        "minsched_node_state", "1 for the state in which the node is.", labels=["node", "state"]
    )
    info = InfoMetricFamily(
        "minsched_node", "A pool that the node is in; to join by.", labels=["node", "pool"]
    )
    draining = GaugeMetricFamily(
        "minsched_node_draining", "1 where the node is given no more jobs.", labels=["node"]
    )
    slots = GaugeMetricFamily("minsched_node_slots", "Slots of the node.", labels=["node"])
    taken = GaugeMetricFamily(
        "minsched_node_slots_taken", "Slots of the node that jobs hold.", labels=["node"]
    )
    load = GaugeMetricFamily(
        "minsched_node_load_ratio", "Load last reported, 0 to 1.", labels=["node", "resource"]
    )
    for node in nodes:
        if node.state != "left":
            up.add_metric([node.node_id], int(node.is_heard))
        if not node.is_heard:
            continue
        state.add_metric([node.node_id, node.state], 1)
        for pool in pools.intersection(node.pools):
            info.add_metric([node.node_id, pool], {})
        draining.add_metric([node.node_id], int(node.draining))
        slots.add_metric([node.node_id], node.max_jobs)
        taken.add_metric([node.node_id], node.current_jobs)
        for resource in ("cpu", "gpu", "mem"):
            if node.load.get(resource) is not None:
                load.add_metric([node.node_id, resource], node.load[resource] / 100)
    yield from (count, up, state, info, draining, slots, taken, load)


def _with_series(pools: list[PoolView]) -> list[PoolView]:
    """The MOST_POOLS pools with the most slots, and the MOST_EMPTY_POOLS pools without nodes for
    which most jobs wait. All that are left are one.
    """
    used = sorted((pool for pool in pools if pool.nodes), key=lambda pool: -pool.slots)
    empty = sorted((pool for pool in pools if not pool.nodes), key=lambda pool: -pool.waiting)
    names = {pool.pool for pool in (*used[:MOST_POOLS], *empty[:MOST_EMPTY_POOLS])}
    found = [pool for pool in pools if pool.pool in names]
    others = [pool for pool in pools if pool.pool not in names]
    if others:
        sums = {name: sum(getattr(pool, name) for pool in others) for name in _SUMMED}
        found.append(PoolView(pool=OTHER, paused=False, langs=[], **sums))
    return found


def _of_pools(pools: Iterable[PoolView]) -> Iterator[Metric]:
    def gauge(name: str, text: str, value: Callable[[PoolView], float]) -> Metric:
        family = GaugeMetricFamily(f"minsched_pool_{name}", text, labels=["pool"])
        for pool in pools:
            family.add_metric([pool.pool], value(pool))
        return family

    pools = list(pools)
    yield gauge(
        "nodes", "Nodes of the pool that take jobs, or are drained.", lambda pool: pool.online
    )
    yield gauge("slots", "Slots of its nodes that take jobs.", lambda pool: pool.slots)
    yield gauge("slots_taken", "Slots of these nodes that jobs hold.", lambda pool: pool.taken)
    yield gauge(
        "leaving_jobs",
        "Jobs at its other nodes: those that drain, stop, are stuck or dead.",
        lambda pool: pool.leaving,
    )
    yield gauge(
        "waiting_jobs",
        "Jobs in line that the pool could serve; one that several could serve counts in each.",
        lambda pool: pool.waiting,
    )
    yield gauge(
        "load_ratio",
        "(slots taken + jobs in line) / slots: what to scale by. With no slot, the jobs.",
        lambda pool: pool.load,
    )
    yield gauge("paused", "1 where an operator has paused the pool.", lambda pool: pool.paused)


def _of_lines(lines: Iterable[LineView], total: int, now: int) -> Iterator[Metric]:
    """``lines`` are those looked at. All other jobs of the ``total`` wait for other demands."""
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
        "How long the first in line has waited; with priorities or turns others may have longer.",
        labels=["demand"],
    )
    for demand, number in waiting.items():
        jobs.add_metric([demand], number)
        oldest.add_metric([demand], max(now - since[demand], 0) / 1000)
    yield from (jobs, oldest)
    yield GaugeMetricFamily(
        "minsched_impossible_jobs",
        f"Jobs in line that no registered node could ever do, in the {MOST_LINES} lines looked at.",
        value=impossible,
    )


def _of_counts(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    """Counts by pool end with the pool. Of no pool (``""``) is what none could be found for."""
    dispatches = CounterMetricFamily(
        "minsched_dispatches",
        "Jobs that were given a slot (preferred, sticky, least_loaded; first_free after a wait), "
        "put in line (busy, impossible), put off (delayed), or refused.",
        labels=["pool", "outcome"],
    )
    ended = CounterMetricFamily(
        "minsched_jobs_ended",
        "Jobs that ended. Lost: with their node, while they ran; unsent: their publisher failed.",
        labels=["pool", "status"],
    )
    waits = HistogramMetricFamily(
        "minsched_wait_seconds",
        "How long jobs stood in line, of those that did, when they were given a slot.",
        labels=["pool"],
    )
    moves = CounterMetricFamily(
        "minsched_session_moves",
        "Jobs that went elsewhere than their session's last one; with sticky dispatches, all.",
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
        "minsched_node_deaths", "Nodes that fell silent.", value=fleet.get("node_deaths", 0)
    )
    yield CounterMetricFamily(
        "minsched_rescues",
        "Dead nodes whose jobs were all placed anew or told lost.",
        value=fleet.get("rescues", 0),
    )


def _buckets(count: Mapping[str, int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound / 1000) for bound in WAITED), "+Inf"]
    numbers = [count.get(f"waited:{bound}", 0) for bound in (*WAITED, "inf")]
    return list(zip(bounds, accumulate(numbers), strict=True))


def _of_server(server: ServerView) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "minsched_redis_round_trip_seconds",
        "How long Redis took to answer a PING of this scrape.",
        value=server.round_trip_ms / 1000,
    )
    yield CounterMetricFamily(
        "minsched_redis_commands",
        "Commands of all clients of this Redis, those that scripts call too.",
        value=server.commands,
    )
    yield CounterMetricFamily(
        "minsched_script_calls", "Calls of scripts in this Redis.", value=server.scripts
    )
    yield CounterMetricFamily(
        "minsched_script_seconds",
        "How long scripts kept this Redis busy; by calls, the server's time for a dispatch.",
        value=server.script_us / 1e6,
    )
