"""All that a live view shows: the fleet at one moment, and its pace since the look before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel

from .line_queries import MOST_LINES
from .models import LineView, NodeView, PoolView, ServerView
from .queries import Views

#: What lua/include/events.lua counts, by what it means for the pace.
PLACED = ("preferred", "sticky", "least_loaded", "first_free")
WAITED = ("busy", "impossible")
ENDED = ("finished", "failed", "lost")


class Pace(BaseModel):
    """What went on between two looks: jobs, scripts and commands a second, and mean times."""

    seconds: float  # between the looks
    placed: float
    ended: float
    failed: float  # of those that ended; lost ones too
    began_to_wait: float
    wait_ms: float  # of those that waited, and were placed meanwhile; 0 for none
    scripts: float
    script_ms: float  # of the server's time; 0 where it does not tell
    commands: float


class Counters(BaseModel):
    """What was counted up to a moment. Two of them make a pace."""

    ts: int  # ms, the server's clock
    counts: dict[str, int]  # of all pools together
    server: ServerView


class Snapshot(Counters):
    """The fleet at one moment."""

    nodes: list[NodeView]
    pools: list[PoolView]
    lines: list[LineView]  # MOST_LINES at most; the longest wait first
    line_count: int  # of all lines
    waiting: int  # jobs in all lines
    pace: Pace | None = None  # None at the first look


def count(views: Views, pools: Iterable[str] | None = None) -> Counters:
    """What is counted now of the fleet and its pools."""
    counts: Counter[str] = Counter()
    names = views.pool_names() if pools is None else pools
    for of_pool in views.counts_of(["", *names]).values():
        counts.update(of_pool)
    return Counters(ts=views.now(), counts=counts, server=views.server())


def look(views: Views, before: Counters | None = None) -> Snapshot:
    """The fleet now, and its pace since ``before``."""
    nodes, waiting = views.nodes(), views.waiting_counts()
    pools = views.pools(nodes, waiting)
    counters = count(views, (pool.pool for pool in pools))
    now = Snapshot(
        ts=counters.ts,
        counts=counters.counts,
        server=counters.server,
        nodes=nodes,
        pools=pools,
        lines=sorted(views.lines(MOST_LINES), key=lambda line: line.oldest_ts),
        line_count=views.line_count(),
        waiting=sum(waiting.values()),
    )
    return now.model_copy(update={"pace": _pace(before, now)}) if before else now


def _pace(before: Counters, now: Counters) -> Pace:
    seconds = max(now.ts - before.ts, 1) / 1000

    def gain(*names: str) -> int:
        """Counts begin anew where a pool, or Redis, does."""
        return sum(max(now.counts.get(name, 0) - before.counts.get(name, 0), 0) for name in names)

    def server_gain(name: str) -> int:
        return max(int(getattr(now.server, name)) - int(getattr(before.server, name)), 0)

    waits = gain(*(name for name in now.counts if name.startswith("waited:")))
    scripts = server_gain("scripts")
    return Pace(
        seconds=seconds,
        placed=gain(*PLACED) / seconds,
        ended=gain(*ENDED) / seconds,
        failed=gain("failed", "lost") / seconds,
        began_to_wait=gain(*WAITED) / seconds,
        wait_ms=gain("waited_ms") / max(waits, 1),
        scripts=scripts / seconds,
        script_ms=server_gain("script_us") / 1000 / max(scripts, 1),
        commands=server_gain("commands") / seconds,
    )
