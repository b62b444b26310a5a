"""Due times of delayed jobs, and their lateness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import redis
from celery.result import AsyncResult


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def lateness(client: redis.Redis, *results: AsyncResult, since: int = 0) -> list[float]:
    """Seconds from each job's due time until it was at a node or in a line, in ascending order.

    If a job was due before it was sent, its lateness starts with the sending. No lateness starts
    before ``since``.
    """
    delays = []
    for start in range(0, len(results), 1000):
        with client.pipeline(transaction=False) as pipe:
            for result in results[start : start + 1000]:
                pipe.get(f"scheduler:task:{result.id}")
            for job_id in pipe.execute():
                pipe.hgetall(f"scheduler:job:{job_id}")
            jobs = pipe.execute()
        for job in jobs:
            waited = int(job.get("waited_ms") or 0)
            placed = int(job.get("waiting_ts") or int(job["dispatched_ts"]) - waited)
            delays.append((placed - max(int(job["due_ts"]), int(job["created_ts"]), since)) / 1000)
    return sorted(delays)
