"""Read-only questions: nodes, pools, jobs, and whether it all fits together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import redis
from pydantic import BaseModel

from .keys import Keys
from .settings import Settings

if TYPE_CHECKING:
    from .check import Breach


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

    def __init__(self, redis: redis.Redis, keys: Keys, settings: Settings | None = None) -> None:
        self.redis = self._redis = redis
        self.keys = self._keys = keys
        self.settings = settings or Settings()

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

    def lines(self) -> list[LineView]:
        """All lines, by name."""
        nodes = self.nodes()
        lines = []
        for name in sorted(_texts(self._redis.hkeys(self._keys("lines")))):
            where, capabilities, required = name.split("/")
            caps = [cap for cap in capabilities.split(",") if cap]
            pools = self.pools_of(where)
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

    def pools_of(self, where: str) -> set[str]:
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

    def check(self) -> list[Breach]:
        """What does not fit together in Redis; nothing on a sound state."""
        from .check import Checker  # which asks its questions by way of this class

        return Checker(self).check()


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
