"""A snapshot of the fleet, and its pace since the snapshot before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pydantic import BaseModel

from ..core.statuses import ENDED
from .lines import MOST_LINES
from .models import LineView, NodeView, PoolView, ServerView
from .queries import Views

#: Counters of lua/include/events.lua: jobs that got a slot, and jobs that began to wait.
PLACED = ("preferred", "sticky", "least_loaded", "first_free")
WAITED = ("busy", "impossible")


class Pace(BaseModel):
    """Rates a second and mean times between two snapshots."""

    seconds: float  # between the snapshots
    placed: float
    ended: float
    failed: float  # included in ``ended``, as are lost jobs
    began_to_wait: float
    wait_ms: float  # mean wait of the jobs that got a slot after a wait, or 0 for none
    scripts: float
    script_ms: float  # the server's time for a script, or 0 if the client may not read it
    commands: float


class Counters(BaseModel):
    """Counters at one moment. Two of them give a pace."""

    ts: int  # ms, the server's clock
    counts: dict[str, int]  # sums over the fleet and its pools
    server: ServerView


class Snapshot(Counters):
    """The fleet at one moment."""

    nodes: list[NodeView]
    pools: list[PoolView]
    lines: list[LineView]  # at most MOST_LINES, the longest wait first
    line_count: int  # of all lines
    waiting: int  # jobs in all lines
    pace: Pace | None = None  # None in the first snapshot


def read_counters(views: Views, pools: Iterable[str] | None = None) -> Counters:
    """The counters of the fleet and its pools now."""
    counts: Counter[str] = Counter()
    names = views.pool_names() if pools is None else pools
    for of_pool in views.counts_of(["", *names]).values():
        counts.update(of_pool)
    return Counters(ts=views.now(), counts=counts, server=views.server())


def take_snapshot(views: Views, before: Counters | None = None) -> Snapshot:
    """The fleet now, and its pace since ``before``."""
    nodes, waiting = views.nodes(), views.waiting_counts()
    pools = views.pools(nodes, waiting)
    counters = read_counters(views, (pool.pool for pool in pools))
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
        """A counter can start again, with its pool or with Redis."""
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
