"""Read-only questions: nodes, pools, jobs, lines, events, and why a job is where it is.

Each reads Redis in pages, a bounded number of keys at a time, so that no look holds it up: with a
thousand nodes and ten thousand jobs none takes more than some milliseconds of it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain, islice
from typing import Any, cast

import redis
from redis.exceptions import NoPermissionError

from ..core.keys import Keys
from ..core.reading import numbers_of, pages, record_of, text_of, text_or_none
from ..core.settings import Settings
from ..core.stored import Command, ask_each, is_wrong_type
from ..core.times import settings_of_fleet
from .job_record import read_job, unreadable_job
from .line_queries import LineViews
from .models import Event, JobView, NodeView, PoolView, ServerView
from .node_record import NODE_FIELDS, read_node, unreadable_node


class Views(LineViews):
    """Questions to a live scheduler. None of them changes anything."""

    def __init__(self, redis: redis.Redis, keys: Keys, settings: Settings | None = None) -> None:
        super().__init__(redis, keys)
        self.settings = settings or Settings()

    def now(self) -> int:
        """The server's clock, ms."""
        seconds, microseconds = self._redis.time()
        return seconds * 1000 + microseconds // 1000

    def nodes(self) -> list[NodeView]:
        """All nodes that are registered and not yet forgotten, by id."""
        return sorted(self._nodes(self._node_scores()), key=lambda node: node.node_id)

    def node(self, node_id: str) -> NodeView | None:
        """A node by its id."""
        score = self._ask_one("ZSCORE", self._keys("nodes"), node_id)
        return next(self._nodes({node_id: score or 0}), None)

    def is_rescue_pending(self, node_id: str) -> bool:
        """Is the node gone, with jobs or messages that nobody has seen to yet?"""
        return self._ask_one("ZSCORE", self._keys("rescues"), node_id) is not None

    def _node_scores(self) -> dict[str, float]:
        """The registered nodes; a node that was found dead has a negative score."""
        return {node_id: float(score) for node_id, score in self._items("ZSCAN", "nodes")}

    def _nodes(self, scores: dict[str, float]) -> Iterator[NodeView]:
        for page in pages(scores):
            commands: list[Command] = []
            for node_id in page:
                commands += (
                    ("HMGET", self._keys("node_info", node_id), *NODE_FIELDS),
                    ("HGET", self._keys("node_runtime", node_id), "current_jobs"),
                )
            fleet, (seconds, microseconds), *answers = ask_each(
                self._redis, [("GET", self._keys("times")), ("TIME",), *commands]
            )
            found = None if is_wrong_type(fleet) else text_or_none(fleet)
            node_ttl = settings_of_fleet(self.settings, found).node_ttl
            silent_since = 1000 * (seconds + microseconds / 1e6 - node_ttl)
            for node_id, info, taken in zip(page, answers[::2], answers[1::2], strict=True):
                if is_wrong_type(info) or is_wrong_type(taken):
                    yield unreadable_node(node_id, "its record is no hash")
                    continue
                record = dict(zip(NODE_FIELDS, map(text_or_none, info), strict=True))
                if any(value is not None for value in record.values()):
                    is_dead, jobs = scores[node_id] < 0, text_or_none(taken)
                    yield read_node(node_id, record, jobs, is_dead, silent_since)

    def pools(
        self,
        nodes: Iterable[NodeView] | None = None,
        waiting_counts: Mapping[str, int] | None = None,
    ) -> list[PoolView]:
        """All pools that have nodes, or jobs that wait for them, by name.

        ``nodes`` and ``waiting_counts`` where the caller has just read them.
        """
        members: dict[str, list[NodeView]] = defaultdict(list)
        for node in self.nodes() if nodes is None else nodes:
            for pool in node.pools:
                members[pool].append(node)
        langs = self._pool_langs(self._members("pools"))
        counts = self.waiting_counts() if waiting_counts is None else waiting_counts
        waiting = self.waiting_by_pool(counts, langs)
        langs |= self._pool_langs(waiting.keys() - langs.keys())
        paused = self.paused()
        return [
            self._pool(pool, members[pool], waiting[pool], pool in paused, langs[pool])
            for pool in sorted(langs)
        ]

    def pool(self, pool: str) -> PoolView:
        """A pool by its name; one that is not there has no nodes and nobody who waits."""
        found = next((view for view in self.pools() if view.pool == pool), None)
        return found or self._pool(pool, [], 0, pool in self.paused(), [])

    def pool_names(self) -> list[str]:
        """All pools that have nodes, or jobs that wait for them, by name."""
        langs = self._pool_langs(self._members("pools"))
        return sorted(langs.keys() | self.waiting_by_pool(self.waiting_counts(), langs).keys())

    def paused(self) -> set[str]:
        """The pools that an operator has paused."""
        return set(self._members("paused"))

    def _pool_langs(self, pools: Iterable[str]) -> dict[str, list[str]]:
        """The language pairs that each of the pools lists."""
        keys = {pool: self._keys("pool_langs", pool) for pool in pools}
        found = self._scan_all(keys.values())
        return {pool: sorted(found[key]) for pool, key in keys.items()}

    def _pool(
        self, pool: str, nodes: list[NodeView], waiting: int, paused: bool, langs: list[str]
    ) -> PoolView:
        working = [node for node in nodes if node.takes_jobs]
        return PoolView(
            pool=pool,
            paused=paused,
            nodes=len(nodes),
            online=sum(node.online for node in nodes),
            slots=sum(node.max_jobs for node in working),
            taken=sum(node.current_jobs for node in working),
            leaving=sum(node.current_jobs for node in nodes if not node.takes_jobs),
            waiting=waiting,
            langs=langs,
        )

    def job(self, job_id: str) -> JobView | None:
        """A job by its id."""
        return next(self._jobs([job_id]), None)

    def job_of_task(self, task_id: str) -> JobView | None:
        """The latest job of a task."""
        job_id = self._ask_one("GET", self._keys("task", task_id))
        return self.job(text_of(job_id)) if job_id else None

    def is_owner(self, task_id: str, node_id: str, job_id: str, claim: str) -> bool:
        """Does the node run the job, by this claim, and no later job of the same task?

        What Redis has lost and the node's heartbeat rebuilt names no claim, and no task.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self._keys("job", job_id), "status", "node_id", "claim")
            pipe.get(self._keys("task", task_id))
            record, latest_job = pipe.execute()
        status, owner, latest_claim = (text_of(value or "") for value in record)
        is_latest = latest_claim in ("", claim) and text_of(latest_job or job_id) == job_id
        return (status, owner) == ("running", node_id) and is_latest

    def jobs(
        self,
        limit: int = 1000,
        *,
        offset: int = 0,
        node_id: str = "",
        pool: str = "",
        status: str = "",
    ) -> list[JobView]:
        """Jobs that are at a node, wait, or are delayed; ``limit`` at most, after ``offset``.

        Those at a node only, of a pool (where they are, or that could serve them), of a status.
        """
        serves = cache(lambda where: not pool or pool in self.pools_of(where))
        wanted = (
            job
            for job in self._jobs(self._live_jobs(node_id, status, serves))
            if (not status or job.status == status)
            and (job.pool == pool or not pool if job.has_slot else serves(job.where))
        )
        return list(islice(wanted, offset, offset + limit))

    def jobs_at(self, node_id: str) -> list[JobView]:
        """The jobs that hold the node's slots."""
        return list(self._jobs(self._live_jobs(node_id)))

    def _live_jobs(
        self,
        at_node: str = "",
        status: str = "",
        serves: Callable[[str], bool] = lambda _where: True,
    ) -> Iterator[str]:
        """The ids of jobs among which are all of this node, of this status, and in lines that are
        served.
        """
        if status in ("", "dispatched", "running"):
            nodes = [at_node] if at_node else list(self._node_scores())
            yield from self._in_order_all("node_jobs", nodes)
        if at_node:
            return
        if status in ("", "waiting"):
            lines = (name for name in self.line_names() if serves(name.partition("/")[0]))
            for ticket in self._in_order_all("waiting", lines):
                yield ticket.partition(" ")[2]
        if status in ("", "delayed"):
            yield from self._in_order("delayed")

    def delayed(self) -> Iterator[str]:
        """The ids of the delayed jobs, by when they are due."""
        return self._in_order("delayed")

    def _jobs(self, job_ids: Iterable[str]) -> Iterator[JobView]:
        for page in pages(job_ids):
            # All of each: each field that is named is a search through a small hash.
            commands: list[Command] = [("HGETALL", self._keys("job", job_id)) for job_id in page]
            for job_id, answer in zip(page, ask_each(self._redis, commands), strict=True):
                if is_wrong_type(answer):
                    yield unreadable_job(job_id, "its record is no hash")
                elif answer:
                    yield read_job(job_id, record_of(answer))

    def in_line(self, name: str, limit: int = 100) -> list[JobView]:
        """The first jobs of a line, in their order."""
        return self.in_lines([name], [limit])[0]

    def in_lines(self, names: Iterable[str], limits: Iterable[int]) -> list[list[JobView]]:
        """The first jobs of each of these lines, in their order."""
        job_ids = self.first_in_lines(names, limits)
        found = {job.job_id: job for job in self._jobs(chain.from_iterable(job_ids))}
        return [[found[job_id] for job_id in ids if job_id in found] for ids in job_ids]

    def place_in_line(self, job: JobView) -> int | None:
        """How many jobs stand before a waiting job in its line; ``None`` where it is in none."""
        rank = self._ask_one("ZRANK", self._keys("waiting", job.line), job.ticket)
        return cast("int | None", rank)

    def events(self, after: str = "", limit: int = 100, block_ms: int | None = None) -> list[Event]:
        """Events after the one of that id, or the latest; waits ``block_ms`` for one, if given."""
        stream = self._keys("events")
        if not after:
            found = self._ask_one("XREVRANGE", stream, "+", "-", "COUNT", limit)[::-1]
        elif block_ms is None:
            found = self._ask_one("XRANGE", stream, f"({after}", "+", "COUNT", limit)
        else:
            answer = cast("Any", self._redis.xread({stream: after}, count=limit, block=block_ms))
            found = answer[0][1] if answer else []
        return [_event(event_id, fields) for event_id, fields in found]

    def counts(self, pool: str = "") -> dict[str, int]:
        """What was counted of a pool; without one, of the fleet. See lua/include/events.lua."""
        return self.counts_of([pool])[pool]

    def counts_of(self, pools: Iterable[str]) -> dict[str, dict[str, int]]:
        """What was counted of each of these pools; of the fleet for ""."""
        pools = list(pools)
        keys = [self._keys("pool_counts", pool) if pool else self._keys("counts") for pool in pools]
        answers = self._ask(("HGETALL", key) for key in keys)
        return dict(zip(pools, map(numbers_of, answers), strict=True))

    def server(self) -> ServerView:
        """The server's round trip, and its own account of its work, where we may read that."""
        began = time.perf_counter()
        self._redis.ping()
        round_trip_ms = 1000 * (time.perf_counter() - began)
        try:
            commands = self._redis.info("commandstats")
        except NoPermissionError:  # INFO is an administrator's
            return ServerView(round_trip_ms=round_trip_ms)
        scripts = commands.get("cmdstat_evalsha", {})
        return ServerView(
            round_trip_ms=round_trip_ms,
            scripts=scripts.get("calls", 0),
            script_us=scripts.get("usec", 0),
            commands=sum(command["calls"] for command in commands.values()),
        )

    def _members(self, name: str) -> list[str]:
        """Of a set."""
        return self._scan(self._keys(name))


def can_do(node: NodeView, pools: Iterable[str], capabilities: Iterable[str]) -> bool:
    """Is the node in one of the pools, with all the capabilities?"""
    return bool(set(pools) & set(node.pools)) and set(capabilities) <= set(node.capabilities)


def _event(event_id: object, fields: object) -> Event:
    given = record_of(fields)
    return Event(event_id=text_of(event_id), kind=given.pop("kind", "unknown"), fields=given)
