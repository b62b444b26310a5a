"""All that a live view shows: the fleet at one moment, and its pace since the look before."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from .views import LineView, NodeView, PoolView, ServerView, Views

#: What lua/include/journal.lua counts, by what it means for the pace.
PLACED = ("preferred", "sticky", "least_loaded", "first_free")
WAITED = ("busy", "impossible")
ENDED = ("finished", "failed", "lost")


class Pace(BaseModel):
    """What went on between two looks: jobs, scripts and commands a second, and mean times."""

    placed: float
    ended: float
    failed: float  # of those that ended; lost ones too
    began_to_wait: float
    wait_ms: float  # of those that waited, and were placed meanwhile; 0 for none
    scripts: float
    script_ms: float  # of the server's time; 0 where it does not tell
    commands: float


class Snapshot(BaseModel):
    """The fleet at one moment."""

    ts: int  # ms, the server's clock
    nodes: list[NodeView]
    pools: list[PoolView]
    lines: list[LineView]  # the longest wait first
    counts: dict[str, int]  # of all pools together
    server: ServerView
    pace: Pace | None = None  # None at the first look


def look(views: Views, before: Snapshot | None = None) -> Snapshot:
    """The fleet now, and its pace since ``before``."""
    nodes, lines = views.nodes(), views.lines()
    pools = views.pools(nodes, lines)
    counts: Counter[str] = Counter()
    for of_pool in views.counts_of(["", *(pool.pool for pool in pools)]).values():
        counts.update(of_pool)
    now = Snapshot(
        ts=views.now(),
        nodes=nodes,
        pools=pools,
        lines=sorted(lines, key=lambda line: line.oldest_ts),
        counts=counts,
        server=views.server(),
    )
    return now.model_copy(update={"pace": _pace(before, now)}) if before else now


def _pace(before: Snapshot, now: Snapshot) -> Pace:
    seconds = max(now.ts - before.ts, 1) / 1000

    def gain(*names: str) -> int:
        """Counts begin anew where a pool, or Redis, does."""
        return sum(max(now.counts.get(name, 0) - before.counts.get(name, 0), 0) for name in names)

    def server_gain(name: str) -> int:
        return max(int(getattr(now.server, name)) - int(getattr(before.server, name)), 0)

    waits = gain(*(name for name in now.counts if name.startswith("waited:")))
    scripts = server_gain("scripts")
    return Pace(
        placed=gain(*PLACED) / seconds,
        ended=gain(*ENDED) / seconds,
        failed=gain("failed", "lost") / seconds,
        began_to_wait=gain(*WAITED) / seconds,
        wait_ms=gain("waited_ms") / max(waits, 1),
        scripts=scripts / seconds,
        script_ms=server_gain("script_us") / 1000 / max(scripts, 1),
        commands=server_gain("commands") / seconds,
    )
