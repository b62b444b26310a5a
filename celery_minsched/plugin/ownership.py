"""What a task's own code may ask: does its job still belong to it?"""

from __future__ import annotations

from celery import current_task
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .header import HEADER
from .plugin import plugin_of


def still_mine() -> bool:
    """Does the job of the current task still belong to it? For side effects that must not double.

    False if the node was declared dead meanwhile, because it was paused or cut off, and the job was
    given to another node, reported lost, or its task retried. False if Redis has no record of the
    job. True outside of a task, and in a task that the scheduler did not dispatch.

    Each call asks Redis. Raises kombu's ``OperationalError`` if Redis does not answer. The answer
    may change at any time: call it just before the side effect.
    """
    place = getattr(current_task.request, HEADER, None) if current_task else None
    if not isinstance(place, dict) or not place.get("job_id"):
        return True
    job = (place["node_id"], place["job_id"], place.get("claim", ""))
    try:
        return plugin_of(current_task.app).views.is_owner(current_task.request.id, *job)
    except RedisError as exc:
        raise OperationalError(str(exc)) from exc
