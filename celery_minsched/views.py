"""Read-only questions: nodes, pools, jobs, lines, events, and why a job is where it is.

Each reads Redis in pages, a bounded number of keys at a time, so that no look holds it up: with a
thousand nodes and ten thousand jobs none takes more than some milliseconds of it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import redis
from redis.exceptions import NoPermissionError

from .keys import Keys
from .node_record import NODE_FIELDS, read_node
from .scripts import text
from .settings import Settings
from .times import settings_of_fleet
from .view_models import Event, JobView, LineView, NodeView, PoolView, ServerView

if TYPE_CHECKING:
    from .check import Breach

T = TypeVar("T")

PAGE = 100  # keys read in one round trip: Redis does all of it in one go
MANY = 500  # names in one answer of a SCAN


class Views:
    """Questions to a live scheduler. None of them changes anything."""

    def __init__(self, redis: redis.Redis, keys: Keys, settings: Settings | None = None) -> None:
        self.redis = self._redis = redis
        self.keys = self._keys = keys
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
        score = self._redis.zscore(self._keys("nodes"), node_id)
        return next(self._nodes({node_id: score or 0}), None)

    def is_rescue_pending(self, node_id: str) -> bool:
        """Is the node gone, with jobs or messages that nobody has seen to yet?"""
        return self._redis.zscore(self._keys("rescues"), node_id) is not None

    def _node_scores(self) -> dict[str, float]:
        """The registered nodes; a node that was found dead has a negative score."""
        found = self._redis.zscan_iter(self._keys("nodes"), count=PAGE)
        return {_text(node_id): float(score) for node_id, score in found}

    def _nodes(self, scores: dict[str, float]) -> Iterator[NodeView]:
        for page in pages(scores):
            with self._redis.pipeline(transaction=False) as pipe:
                for node_id in page:
                    pipe.hmget(self._keys("node_info", node_id), NODE_FIELDS)
                    pipe.hget(self._keys("node_runtime", node_id), "current_jobs")
                pipe.get(self._keys("times"))
                pipe.time()
                *answers, fleet, (seconds, microseconds) = pipe.execute()
            node_ttl = settings_of_fleet(self.settings, _text_or_none(fleet)).node_ttl
            silent_since = 1000 * (seconds + microseconds / 1e6 - node_ttl)
            for node_id, info, taken in zip(page, answers[::2], answers[1::2], strict=True):
                record = dict(zip(NODE_FIELDS, map(_text_or_none, info), strict=True))
                if record["max_jobs"] is not None:
                    is_dead = scores[node_id] < 0
                    yield read_node(node_id, record, int(taken or 0), is_dead, silent_since)

    def pools(
        self, nodes: Iterable[NodeView] | None = None, lines: Iterable[LineView] | None = None
    ) -> list[PoolView]:
        """All pools that have nodes, or jobs that wait for them, by name.

        ``nodes`` and ``lines`` where the caller has just read them.
        """
        members: dict[str, list[NodeView]] = defaultdict(list)
        for node in self.nodes() if nodes is None else nodes:
            for pool in node.pools:
                members[pool].append(node)
        waiting = self._waiting_by_pool(self.lines() if lines is None else lines)
        paused = self.paused()
        return [
            self._pool(pool, members[pool], waiting[pool], pool in paused)
            for pool in sorted({*self._members("pools"), *waiting})
        ]

    def pool(self, pool: str) -> PoolView:
        """A pool by its name; one that is not there has no nodes and nobody who waits."""
        found = next((view for view in self.pools() if view.pool == pool), None)
        return found or self._pool(pool, [], 0, pool in self.paused())

    def paused(self) -> set[str]:
        """The pools that an operator has paused."""
        return set(self._members("paused"))

    def _pool(self, pool: str, nodes: list[NodeView], waiting: int, paused: bool) -> PoolView:
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
            langs=sorted(self._members("pool_langs", pool)),
        )

    def _waiting_by_pool(self, lines: Iterable[LineView]) -> Counter[str]:
        pools_of = cache(self.pools_of)
        waiting: Counter[str] = Counter()
        for line in lines:
            for pool in pools_of(line.where):
                waiting[pool] += line.waiting
        return waiting

    def job(self, job_id: str) -> JobView | None:
        """A job by its id."""
        return next(self._jobs([job_id]), None)

    def job_of_task(self, task_id: str) -> JobView | None:
        """The latest job of a task."""
        job_id = self._redis.get(self._keys("task", task_id))
        return self.job(_text(job_id)) if job_id else None

    def is_owner(self, task_id: str, node_id: str, job_id: str, claim: str) -> bool:
        """Does the node run the job, by this claim, and no later job of the same task?

        What Redis has lost and the node's heartbeat rebuilt names no claim, and no task.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.hmget(self._keys("job", job_id), "status", "node_id", "claim")
            pipe.get(self._keys("task", task_id))
            record, latest_job = pipe.execute()
        status, owner, latest_claim = (_text(value or "") for value in record)
        is_latest = latest_claim in ("", claim) and _text(latest_job or job_id) == job_id
        return (status, owner) == ("running", node_id) and is_latest

    def jobs(
        self, limit: int = 1000, *, node_id: str = "", pool: str = "", status: str = ""
    ) -> list[JobView]:
        """Jobs that are at a node, wait, or are delayed; ``limit`` at most.

        Those at a node only, of a pool (where they are, or that could serve them), of a status.
        """
        serves = cache(lambda where: pool in self.pools_of(where))
        wanted = (
            job
            for job in self._jobs(self._live_jobs(node_id))
            if (not status or job.status == status)
            and (not pool or (job.pool == pool if job.has_slot else serves(job.where)))
        )
        return list(islice(wanted, limit))

    def jobs_at(self, node_id: str) -> list[JobView]:
        """The jobs that hold the node's slots."""
        return list(self._jobs(self._live_jobs(node_id)))

    def _live_jobs(self, at_node: str = "") -> Iterator[str]:
        for node_id in [at_node] if at_node else self._members("nodes"):
            yield from self._in_order("node_jobs", node_id)
        if at_node:
            return
        for name in self._lines():
            yield from self.waiting_in(name)
        yield from self.delayed()

    def waiting_in(self, line: str) -> Iterator[str]:
        """The ids of the jobs of a line, in their order."""
        for ticket in self._in_order("waiting", line):
            yield ticket.partition(" ")[2]

    def delayed(self) -> Iterator[str]:
        """The ids of the delayed jobs, by when they are due."""
        return self._in_order("delayed")

    def _in_order(self, *name: str) -> Iterator[str]:
        """Of a sorted set, in pages. One that changes meanwhile may show a member twice or not."""
        for start in count(0, PAGE):
            page = _texts(self._redis.zrange(self._keys(*name), start, start + PAGE - 1))
            yield from page
            if len(page) < PAGE:
                return

    def _jobs(self, job_ids: Iterable[str]) -> Iterator[JobView]:
        for page in pages(job_ids):
            with self._redis.pipeline(transaction=False) as pipe:
                for job_id in page:
                    # All of it: each field that is named is a search through a small hash.
                    pipe.hgetall(self._keys("job", job_id))
                answers = pipe.execute()
            for job_id, answer in zip(page, answers, strict=True):
                record = _texts_of(answer)
                if "status" in record:
                    yield JobView.model_validate({**record, "job_id": job_id})

    def lines(self) -> list[LineView]:
        """All lines, by name."""
        return list(self._lines_of(self._lines()))

    def _lines(self) -> list[str]:
        found = self._redis.hscan_iter(self._keys("lines"), count=PAGE)
        return sorted({_text(name) for name, _ in found})

    def line(self, name: str) -> LineView:
        """A line by its name, "where/capabilities/required node"."""
        return next(self._lines_of([name]))

    def _lines_of(self, names: Iterable[str]) -> Iterator[LineView]:
        is_possible = cache(self.is_possible)
        for page in pages(names):
            with self._redis.pipeline(transaction=False) as pipe:
                for name in page:
                    pipe.zcard(self._keys("waiting", name))
                    pipe.zrange(self._keys("waiting", name), 0, 0)
                answers = pipe.execute()
                for first in answers[1::2]:
                    job_id = _text(first[0]).partition(" ")[2] if first else ""
                    pipe.hget(self._keys("job", job_id), "waiting_ts")
                since = pipe.execute()
            for name, waiting, oldest_ts in zip(page, answers[::2], since, strict=True):
                where, capabilities, required = name.split("/")
                caps = tuple(cap for cap in capabilities.split(",") if cap)
                yield LineView(
                    name=name,
                    where=where,
                    capabilities=list(caps),
                    required_node=required,
                    waiting=waiting,
                    possible=is_possible(where, caps),
                    oldest_ts=int(oldest_ts or 0),
                )

    def in_line(self, name: str, limit: int = 100) -> list[JobView]:
        """The first jobs of a line, in their order."""
        tickets = _texts(self._redis.zrange(self._keys("waiting", name), 0, limit - 1))
        return list(self._jobs(ticket.partition(" ")[2] for ticket in tickets))

    def place_in_line(self, job: JobView) -> int | None:
        """How many jobs stand before a waiting job in its line; ``None`` where it is in none."""
        rank = self._redis.zrank(self._keys("waiting", job.line), job.ticket)
        return cast("int | None", rank)

    def is_possible(self, where: str, capabilities: Sequence[str]) -> bool:
        """Could a registered node do it? As ``is_possible`` in lua/include/demand.lua."""
        for pool in self.pools_of(where):
            sets = [
                self._keys("capable_members", pool, capability) for capability in capabilities
            ] or [self._keys("pool_members", pool)]
            if len(sets) == 1 and self._redis.exists(sets[0]):
                return True
            if any(self._are_in_all(page, sets) for page in pages(self._scan(sets[0]))):
                return True
        return False

    def _are_in_all(self, members: list[str], sets: Sequence[str]) -> bool:
        """Is one of the members in all of the sets?"""
        with self._redis.pipeline(transaction=False) as pipe:
            for key in sets:
                pipe.smismember(key, members)
            return any(map(all, zip(*pipe.execute(), strict=True)))

    def pools_of(self, where: str) -> set[str]:
        """The pools that serve; as ``pools_of`` in lua/include/demand.lua."""
        pool, equals, pairs = where.partition("=")
        if not equals and ":" not in where:
            return {where}
        pools = (
            set(self._members("lang", pair)) for pair in (pairs if equals else where).split("|")
        )
        if not equals:
            return next((found for found in pools if found), set())
        listed = self._redis.exists(self._keys("pool_langs", pool))
        return {pool} if not listed or any(pool in found for found in pools) else set()

    def events(self, after: str = "", limit: int = 100, block_ms: int | None = None) -> list[Event]:
        """Events after the one of that id, or the latest; waits ``block_ms`` for one, if given."""
        stream = self._keys("events")
        if not after:
            found = cast("list[Any]", self._redis.xrevrange(stream, count=limit))[::-1]
        elif block_ms is None:
            found = cast("list[Any]", self._redis.xrange(stream, f"({after}", count=limit))
        else:
            answer = cast("Any", self._redis.xread({stream: after}, count=limit, block=block_ms))
            found = answer[0][1] if answer else []
        return [_event(event_id, fields) for event_id, fields in found]

    def counts(self, pool: str = "") -> dict[str, int]:
        """What was counted of a pool; without one, of the fleet. See lua/include/journal.lua."""
        return self.counts_of([pool])[pool]

    def counts_of(self, pools: Iterable[str]) -> dict[str, dict[str, int]]:
        """What was counted of each of these pools; of the fleet for ""."""
        found: dict[str, dict[str, int]] = {}
        for page in pages(pools):
            with self._redis.pipeline(transaction=False) as pipe:
                for pool in page:
                    key = self._keys("pool_counts", pool) if pool else self._keys("counts")
                    pipe.hgetall(key)
                for pool, counts in zip(page, pipe.execute(), strict=True):
                    found[pool] = {name: int(n) for name, n in _texts_of(counts).items()}
        return found

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

    def check(self) -> list[Breach]:
        """What does not fit together in Redis; nothing on a sound state."""
        from .check import Checker  # which asks its questions by way of this class

        return Checker(self).check()

    def _members(self, *name: str) -> Iterator[str]:
        """Of a set, or of the nodes."""
        if name == ("nodes",):
            return iter(self._node_scores())
        return self._scan(self._keys(*name))

    def _scan(self, key: str) -> Iterator[str]:
        """Of a set, each once, in pages."""
        return iter(dict.fromkeys(map(_text, self._redis.sscan_iter(key, count=PAGE))))


def scan_keys(
    client: redis.Redis, keys: Keys, pattern: str, count: int = MANY
) -> Iterator[list[str]]:
    """The keys below the broker's prefix that match, in batches; some of them twice."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in keys.queue_prefix)
    cursor = 0
    while True:
        cursor, names = cast("Any", client.scan(cursor, match=escaped + pattern, count=count))
        yield text(names)
        if not cursor:
            return


def can_do(node: NodeView, pools: Iterable[str], capabilities: Iterable[str]) -> bool:
    """Is the node in one of the pools, with all the capabilities?"""
    return bool(set(pools) & set(node.pools)) and set(capabilities) <= set(node.capabilities)


def _event(event_id: object, fields: object) -> Event:
    given = _texts_of(fields)
    return Event(event_id=_text(event_id), kind=given.pop("kind"), fields=given)


def pages(items: Iterable[T]) -> Iterator[list[T]]:
    """The items, so many at a time as are read in one round trip."""
    items = iter(items)
    while page := list(islice(items, PAGE)):
        yield page


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _texts(values: object) -> list[str]:
    return [_text(value) for value in cast("list[object]", values)]


def _texts_of(record: object) -> dict[str, str]:
    return {_text(k): _text(v) for k, v in cast("dict[object, object]", record).items()}
