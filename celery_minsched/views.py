"""Read-only questions: nodes, pools, jobs, and whether the invariants hold."""

from __future__ import annotations

import json
from typing import Any, cast

import redis
from pydantic import BaseModel

from .keys import Keys


class NodeView(BaseModel):
    """A node as Redis knows it."""

    node_id: str
    online: bool
    draining: bool
    max_jobs: int
    current_jobs: int
    pools: list[str]
    capabilities: list[str]
    load: dict[str, Any]
    last_heartbeat_ts: int  # ms, the server's clock


class JobView(BaseModel):
    """A job as Redis knows it; times are ms of the server's clock, 0 for what has not happened."""

    job_id: str
    task_id: str = ""
    node_id: str = ""
    pool: str = ""
    session_id: str = ""
    src_lang: str = ""
    tgt_lang: str = ""
    status: str
    reason: str = ""
    chosen_by: str = ""
    created_ts: int = 0
    started_ts: int = 0
    ended_ts: int = 0


class LineView(BaseModel):
    """A line of jobs that wait for the same."""

    where: str
    capabilities: list[str]
    required_node: str
    waiting: int
    #: False where no registered node could do it, so that waiting alone will not help.
    possible: bool


class Views:
    """Questions to a live scheduler. None of them changes anything."""

    def __init__(self, redis: redis.Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def nodes(self) -> list[NodeView]:
        """All nodes that are registered and not yet forgotten, by id."""
        node_ids = sorted(_texts(self._redis.zrange(self._keys("nodes"), 0, -1)))
        with self._redis.pipeline(transaction=True) as pipe:
            for node_id in node_ids:
                pipe.hgetall(self._keys("node_info", node_id))
                pipe.hget(self._keys("node_runtime", node_id), "current_jobs")
            answers = pipe.execute()
        return [
            _node(node_id, _texts_of(info), int(taken or 0))
            for node_id, info, taken in zip(node_ids, answers[::2], answers[1::2], strict=True)
            if info
        ]

    def job(self, job_id: str) -> JobView | None:
        """A job by its id."""
        record = _texts_of(self._redis.hgetall(self._keys("job", job_id)))
        return JobView.model_validate({"job_id": job_id, **record}) if record else None

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

    def lines(self) -> list[LineView]:
        """All lines, by name."""
        nodes = self.nodes()
        lines = []
        for name in sorted(_texts(self._redis.hkeys(self._keys("lines")))):
            where, capabilities, required = name.split("/")
            caps = [cap for cap in capabilities.split(",") if cap]
            pools = self._pools_of(where)
            lines.append(
                LineView(
                    where=where,
                    capabilities=caps,
                    required_node=required,
                    waiting=self._redis.zcard(self._keys("waiting", name)),
                    possible=any(_can(node, pools, caps) for node in nodes),
                )
            )
        return lines

    def _pools_of(self, where: str) -> set[str]:
        """The pools that serve; as ``pools_of`` in lua/include/demand.lua."""
        pool, equals, pairs = where.partition("=")
        if not equals and ":" not in where:
            return {where}
        pools = (
            set(_texts(self._redis.smembers(self._keys("lang", pair))))
            for pair in (pairs if equals else where).split("|")
        )
        if not equals:
            return next((found for found in pools if found), set())
        listed = self._redis.exists(self._keys("pool_langs", pool))
        return {pool} if not listed or any(pool in found for found in pools) else set()

    def check(self) -> list[str]:
        """Breaches of the invariants 1, 2, 3 and 7, a sentence each; none on a sound state.

        What is read while jobs move may not fit together: a breach counts when it stands in two
        looks running.
        """
        first = self._breaches()
        return sorted(first & self._breaches()) if first else []

    def _breaches(self) -> set[str]:
        found: set[str] = set()
        holders: dict[str, str] = {}
        for node in self.nodes():
            name = node.node_id
            jobs = _texts(self._redis.zrange(self._keys("node_jobs", name), 0, -1))
            if len(jobs) != node.current_jobs:
                found.add(f"node {name}: current_jobs {node.current_jobs}, job set {len(jobs)}")
            for job_id in jobs:
                if job_id in holders:
                    found.add(f"job {job_id}: holds slots at {holders[job_id]} and {name}")
                holders[job_id] = name
                job = self.job(job_id)
                if job is None or (job.node_id, job.status) not in (
                    (name, "dispatched"),
                    (name, "running"),
                ):
                    found.add(f"job {job_id}: holds a slot at {name}, its record says {job}")
            wants = node.online and not node.draining and len(jobs) < node.max_jobs
            for pool in node.pools:
                for index in ["", *node.capabilities]:
                    names = ("capable_free", pool, index) if index else ("pool_free", pool)
                    is_free = self._redis.zscore(self._keys(*names), name) is not None
                    if is_free != wants:
                        found.add(f"node {name}: in {self._keys(*names)}: {is_free}, not {wants}")
        for pool in _texts(self._redis.smembers(self._keys("pools"))):
            members = set(_texts(self._redis.smembers(self._keys("pool_members", pool))))
            for name in _texts(self._redis.zrange(self._keys("pool_free", pool), 0, -1)):
                if name not in members:
                    found.add(f"node {name}: free in pool {pool} and no member of it")
        for line in self.lines():
            pools = self._pools_of(line.where)
            for node in self.nodes():
                free = node.online and not node.draining and node.current_jobs < node.max_jobs
                wanted = line.required_node in ("", node.node_id)
                if line.waiting and free and wanted and _can(node, pools, line.capabilities):
                    found.add(f"node {node.node_id} has a free slot while {line.where} waits")
        return found


def _can(node: NodeView, pools: set[str], capabilities: list[str]) -> bool:
    return bool(pools & set(node.pools)) and set(capabilities) <= set(node.capabilities)


def _node(node_id: str, info: dict[str, str], taken: int) -> NodeView:
    offers = [line.split("\t") for line in info.get("offers", "").splitlines()]
    return NodeView(
        node_id=node_id,
        online=info.get("online") == "true",
        draining=info.get("draining") == "true",
        max_jobs=int(info.get("max_jobs", 0)),
        current_jobs=taken,
        pools=sorted({pool for pool, _ in offers}),
        capabilities=sorted({capability for _, capability in offers if capability}),
        load=json.loads(info.get("load_json") or "{}"),
        last_heartbeat_ts=int(info.get("last_heartbeat_ts", 0)),
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _texts(values: object) -> list[str]:
    return [_text(value) for value in cast("list[object]", values)]


def _texts_of(record: object) -> dict[str, str]:
    return {_text(k): _text(v) for k, v in cast("dict[object, object]", record).items()}
