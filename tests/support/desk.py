"""The scheduler with short calls, for tests without Celery."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    HeartbeatRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    SchedulerError,
)
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.models import NodeView
from celery_minsched.monitor.queries import Views
from celery_minsched.plugin.publish import BATCH


class Desk:
    """Short calls of the scheduler. Their defaults are those of the tests."""

    def __init__(self, service: MinimalSchedulerService) -> None:
        self.service = service
        self.views = Views(service.redis, service.keys)

    def node(
        self, node_id: str, slots: int = 2, pools: Any = ("asr",), caps: Any = (), **fields: Any
    ) -> None:
        self.service.register_node(
            RegisterNodeRequest(
                node_id=node_id,
                max_jobs=slots,
                pools_json=json.dumps(list(pools)),
                cap_json=json.dumps(list(caps)),
                **fields,
            )
        )

    def beat(self, node_id: str, **fields: Any) -> Any:
        return self.service.heartbeat(HeartbeatRequest(node_id=node_id, **fields))

    def dispatch(self, **demand: Any) -> DispatchResponse:
        """Dispatch a job without a message."""
        return self.service.dispatch_task(DispatchRequest(**({"pool": "asr"} | demand)))

    def send(self, message: str = "{}", **demand: Any) -> DispatchResponse:
        """Dispatch a job with its message. It waits if no slot is free."""
        return self.send_many([demand], message)[0]

    def send_many(
        self, demands: Iterable[dict[str, Any]], message: str = "{}"
    ) -> list[DispatchResponse]:
        """Dispatch jobs with their messages, in one step."""
        usual = {"pool": "asr", "when_full": "wait"}
        jobs = [DispatchRequest(**(usual | demand)) for demand in demands]
        parts = (f'{{"text": {json.dumps(message)}, "job_id": ', "}")
        outcomes = self.service.dispatch_tasks([(job, parts) for job in jobs])
        for outcome in outcomes:
            if isinstance(outcome, SchedulerError):
                raise outcome
        return [place for place in outcomes if isinstance(place, DispatchResponse)]

    def complete(self, job: DispatchResponse, status: str = "finished") -> Any:
        return self.service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status=status)  # type: ignore[arg-type]
        )

    def park(self, message: str = "{}", **demand: Any) -> str:
        """Send a job that waits. Returns its id."""
        job = self.send(message, **demand)
        assert job.node_id == ""
        return job.job_id

    def taken(self, node_id: str) -> int:
        return self.info(node_id).current_jobs

    def info(self, node_id: str) -> NodeView:
        return next(node for node in self.views.nodes() if node.node_id == node_id)

    def status(self, job_id: str) -> str:
        job = self.views.job(job_id)
        return job.status if job else "unknown"

    def queue(self, node_id: str) -> list[str]:
        """The messages in the node's queue, the newest first: the text of a message of ``send``."""
        messages = self.service.redis.lrange(self.service.keys("node_queue", node_id), 0, -1)
        return [
            json.loads(message)["text"] if message.startswith('{"text"') else message
            for message in messages
        ]

    def take(self, node_id: str) -> str:
        """Take the next message from the node's queue. Returns its text."""
        message = self.service.redis.rpop(self.service.keys("node_queue", node_id))
        return str(json.loads(message)["text"])


def silence(desk: Desk, node_id: str, milliseconds: int) -> None:
    """Make the node's last heartbeat older, while heartbeats of other nodes arrived."""
    client, keys = desk.service.redis, desk.service.keys
    client.hset(keys("heard"), mapping={"since": 1, "last": desk.views.now()})
    client.hincrby(keys("node_info", node_id), "last_heartbeat_ts", -milliseconds)
    client.zincrby(keys("nodes"), -milliseconds, node_id)


PAIR = {"pool": None, "src_lang": "zh", "tgt_lang": "en"}


def park_many(desk: Desk, demands: list[dict[str, Any]], pool: str | None = "asr") -> list[str]:
    """Send a job for each demand, as ``dispatch_many`` does. Returns the job ids."""
    return [
        place.job_id
        for start in range(0, len(demands), BATCH)
        for place in desk.send_many({"pool": pool} | d for d in demands[start : start + BATCH])
    ]


def running_at(desk: Desk, node_id: str) -> list[str]:
    jobs: list[str] = desk.service.redis.zrange(desk.service.keys("node_jobs", node_id), 0, -1)
    return jobs


def finish(desk: Desk, node_id: str) -> str:
    """End the only job of a node with one slot. Returns the job that has the slot then."""
    [job_id] = running_at(desk, node_id)
    desk.complete(DispatchResponse(node_id=node_id, job_id=job_id))
    return (running_at(desk, node_id) or [""])[0]


def beat_until(desk: Desk, node_id: str, done: Callable[[], bool]) -> int:
    """Send heartbeats until ``done`` or until no heartbeat is due at once. Returns their number."""
    for beats in range(1, 500):
        answer = desk.beat(node_id)
        if done() or answer.next_due_ms != 0:
            return beats
    raise AssertionError("there is always more to do")
