"""The calls of the script heartbeat, and its answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import errors
from .models import HeartbeatRequest, HeartbeatResponse

#: Job ids in one call. Redis needs some microseconds to renew a lease.
MOST_JOBS = 250


def lua_bool(value: bool) -> str:
    """A boolean as the scripts take it."""
    return "true" if value else "false"


def heartbeat_calls(
    request: HeartbeatRequest, interval: float, suffixes: str
) -> Iterator[dict[str, Any]]:
    """The arguments of the calls of one heartbeat, without the times. The last answer counts.

    ``interval`` is the process's setting in seconds, and ``suffixes`` are the suffixes of the
    message lists.
    """
    jobs = request.jobs or []
    last = max(0, len(jobs) - 1) // MOST_JOBS * MOST_JOBS
    for start in range(0, last + 1, MOST_JOBS):
        last_listing = "" if request.jobs is None else "jobs"
        yield {
            "node_id": request.node_id,
            "instance": request.instance or "",
            "online": lua_bool(request.online and not request.state),
            "load_json": request.load_json,
            "load": request.load,
            "priority_suffixes": suffixes,
            "listing": last_listing if start == last else "some",
            "is_rescuer": lua_bool(request.rescues),
            "state": request.state,
            "takes_at_once": lua_bool(request.takes_at_once),
            "interval_ms": round(1000 * (request.interval or interval)),
            "job_ids": jobs[start : start + MOST_JOBS],
        }


def read_heartbeat(answer: list[Any], node_id: str, interval: float) -> HeartbeatResponse:
    """The answer to one call. Raises :class:`UnknownNode`."""
    code, *values = answer
    if code == errors.UnknownNode.code:
        raise errors.UnknownNode(node_id=node_id)
    taken, draining, next_due_ms, rescue_due, term, is_stuck, enough_ms, *not_yours = values
    return HeartbeatResponse(
        current_jobs=taken,
        draining=draining == "true",
        next_due_ms=next_due_ms,
        rescue_due=rescue_due == "true",
        term=term,
        is_stuck=is_stuck == "true",
        interval=max(interval, enough_ms / 1000),
        not_yours=not_yours,
    )
