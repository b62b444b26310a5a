"""All questions about a live scheduler. The answers are :mod:`~celery_minsched.monitor.models`.

A question reads Redis in pages of few keys, so it does not block other clients: with a thousand
nodes and ten thousand jobs, each command takes a few milliseconds at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import redis

from ..core.keys import Keys
from ..core.reading import Reader
from ..core.settings import Settings
from . import events, jobs, lines, nodes, pools, server
from .models import Event, JobView, LineView, NodeView, PoolView, ServerView


class Views:
    """Questions about a live scheduler. They only read."""

    def __init__(self, redis: redis.Redis, keys: Keys, settings: Settings | None = None) -> None:
        self.redis, self.keys = redis, keys
        self.settings = settings or Settings()
        self.reader = Reader(redis, keys)

    def now(self) -> int:
        """The server's clock, ms."""
        return server.now(self.reader)

    def server(self) -> ServerView:
        """The round trip to Redis, and its statistics if the client may read them."""
        return server.server(self.reader)

    def nodes(self) -> list[NodeView]:
        """All registered nodes, by id."""
        return nodes.nodes(self.reader, self.settings)

    def node(self, node_id: str) -> NodeView | None:
        """A node by its id."""
        return nodes.node(self.reader, self.settings, node_id)

    def is_rescue_pending(self, node_id: str) -> bool:
        """Does the node's rescue wait for a live node?"""
        return nodes.is_rescue_pending(self.reader, node_id)

    def pools(
        self,
        nodes: Iterable[NodeView] | None = None,
        waiting_counts: Mapping[str, int] | None = None,
    ) -> list[PoolView]:
        """All pools that have nodes or waiting jobs, by name.

        A caller can pass ``nodes`` and ``waiting_counts`` that it has read.
        """
        return pools.pools(
            self.reader,
            self.nodes() if nodes is None else nodes,
            self.waiting_counts() if waiting_counts is None else waiting_counts,
        )

    def pool(self, pool: str) -> PoolView:
        """A pool by its name. An unknown pool has no nodes and no waiting jobs."""
        view = next((view for view in self.pools() if view.pool == pool), None)
        return view or pools.make_pool(pool, [], 0, pool in self.paused(), [])

    def pool_names(self) -> list[str]:
        """All pools that have nodes or waiting jobs, by name."""
        return pools.pool_names(self.reader)

    def paused(self) -> set[str]:
        """The pools that an operator has paused."""
        return pools.paused_pools(self.reader)

    def job(self, job_id: str) -> JobView | None:
        """A job by its id."""
        return jobs.job(self.reader, job_id)

    def job_of_task(self, task_id: str) -> JobView | None:
        """The latest job of a task."""
        return jobs.job_of_task(self.reader, task_id)

    def jobs(
        self,
        limit: int = 1000,
        *,
        offset: int = 0,
        node_id: str = "",
        pool: str = "",
        status: str = "",
    ) -> list[JobView]:
        """Jobs that have a slot, wait or are delayed: at most ``limit``, after ``offset``.

        ``node_id`` selects the jobs in a node's slots, ``pool`` the jobs that run in a pool or
        that it can serve, and ``status`` the jobs with a status.
        """
        return jobs.jobs(self.reader, limit, offset, node_id, pool, status)

    def jobs_at(self, node_id: str) -> list[JobView]:
        """The jobs that hold the node's slots."""
        return jobs.jobs_at(self.reader, node_id)

    def is_owner(self, task_id: str, node_id: str, job_id: str, claim: str) -> bool:
        """Does the node run the job by this claim, and is there no later job of the same task?"""
        return jobs.is_owner(self.reader, task_id, node_id, job_id, claim)

    def place_in_line(self, job: JobView) -> int | None:
        """The number of jobs before a waiting job in its line, or ``None`` if it is in no line."""
        return jobs.place_in_line(self.reader, job)

    def in_line(self, name: str, limit: int = 100) -> list[JobView]:
        """The first jobs of a line, in their order."""
        return self.in_lines([name], [limit])[0]

    def in_lines(self, names: Iterable[str], limits: Iterable[int]) -> list[list[JobView]]:
        """The first jobs of each line in their order, with a limit for each line."""
        return jobs.in_lines(self.reader, names, limits)

    def lines(self, limit: int | None = None, find: str = "") -> list[LineView]:
        """All lines, sorted by name. With ``limit``, the lines that Redis returns first.

        With ``find``, only lines whose names contain all its words.
        """
        return lines.lines(self.reader, limit, find)

    def line(self, name: str) -> LineView:
        """A line by its name, "selector/capabilities/required node"."""
        return lines.read_lines(self.reader, [name])[0]

    def line_count(self) -> int:
        """The number of lines."""
        return lines.line_count(self.reader)

    def waiting_counts(self) -> dict[str, int]:
        """The number of jobs in line by pool selector: ``asr``, ``zh:en``."""
        return lines.waiting_counts(self.reader)

    def waiting_count(self) -> int:
        """The number of jobs in line."""
        return sum(self.waiting_counts().values())

    def events(self, after: str = "", limit: int = 100, block_ms: int | None = None) -> list[Event]:
        """Events after the event with the id ``after``, or the latest events, oldest first.

        With ``block_ms`` the call waits at most this time for an event.
        """
        return events.events(self.reader, after, limit, block_ms)

    def counts(self, pool: str = "") -> dict[str, int]:
        """The counters of a pool, or of the fleet. See lua/include/events.lua."""
        return self.counts_of([pool])[pool]

    def counts_of(self, pools: Iterable[str]) -> dict[str, dict[str, int]]:
        """The counters of each pool, and of the fleet for ""."""
        return events.counts_of(self.reader, pools)
