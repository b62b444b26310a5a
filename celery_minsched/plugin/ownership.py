"""What a task's own code may ask: is it still the one that runs its job?"""

from __future__ import annotations

from celery import current_task
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from .plugin import plugin_of
from .router import HEADER


def still_mine() -> bool:
    """Does the job of the current task still belong to it? For side effects that must not double.

    False where its node was taken for dead meanwhile (it was paused, or cut off) and the job was
    given away or reported lost, or its task retried; also where Redis has no record of the job.
    True outside of a task, and in one that the scheduler did not place: it has nothing to lose.
    Asks Redis each time; raises kombu's ``OperationalError`` where that does not answer. The
    answer may change as soon as it is given: ask just before the side effect.
    """
    stated = getattr(current_task.request, HEADER, None) if current_task else None
    if not isinstance(stated, dict) or not stated.get("job_id"):
        return True
    place = (stated["node_id"], stated["job_id"], stated.get("claim", ""))
    try:
        return plugin_of(current_task.app).views.is_owner(current_task.request.id, *place)
    except RedisError as exc:
        raise OperationalError(str(exc)) from exc
