"""The service in short words, for tests without Celery."""

from __future__ import annotations

import json
from typing import Any

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    HeartbeatRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
)
from celery_minsched.models import DispatchResponse
from celery_minsched.views import NodeView, Views


class Desk:
    """The service in short words."""

    def __init__(self, service: MinimalSchedulerService) -> None:
        self.service = service
        self.views = Views(service.redis, service.keys)

    def node(
        self, node_id: str, slots: int = 2, pools: Any = ("asr",), caps: Any = (), **given: Any
    ) -> None:
        self.service.register_node(
            RegisterNodeRequest(
                node_id=node_id,
                max_jobs=slots,
                pools_json=json.dumps(list(pools)),
                cap_json=json.dumps(list(caps)),
                **given,
            )
        )

    def beat(self, node_id: str, **given: Any) -> Any:
        return self.service.heartbeat(HeartbeatRequest(node_id=node_id, **given))

    def dispatch(self, **demand: Any) -> DispatchResponse:
        return self.service.dispatch_task(DispatchRequest(**({"pool": "asr"} | demand)))

    def complete(self, job: DispatchResponse, status: str = "finished") -> Any:
        return self.service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status=status)  # type: ignore[arg-type]
        )

    def park(self, message: str = "{}", **demand: Any) -> str:
        """Dispatch one that waits, its message in its list; the job."""
        job = self.dispatch(when_full="wait", **demand)
        assert job.node_id == ""
        self.service.redis.lpush(self.service.keys("job_queue", job.job_id), message)
        self.service.place_jobs([job.job_id])
        return job.job_id

    def taken(self, node_id: str) -> int:
        return self.info(node_id).current_jobs

    def info(self, node_id: str) -> NodeView:
        return next(node for node in self.views.nodes() if node.node_id == node_id)

    def status(self, job_id: str) -> str:
        job = self.views.job(job_id)
        return job.status if job else "unknown"

    def queue(self, node_id: str) -> list[Any]:
        messages: list[Any] = self.service.redis.lrange(
            self.service.keys("node_queue", node_id), 0, -1
        )
        return messages


def silence(desk: Desk, node_id: str, milliseconds: int) -> None:
    """Make the node's last heartbeat so much older."""
    client, keys = desk.service.redis, desk.service.keys
    client.hincrby(keys("node_info", node_id), "last_heartbeat_ts", -milliseconds)
    client.zincrby(keys("nodes"), -milliseconds, node_id)
