"""Mends what a check has found, on a live system.

A node, a line or a job is put right as a whole by a script, in one step, by what is true at that
moment; one that is right is not changed. So a repair that comes late, twice, or for a breach that
has gone does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import ResponseError

from ..core.models import DispatchRequest
from ..core.scheduler import MinimalSchedulerService
from ..plugin.messages import read_message, request_of
from .breach import KINDS, Breach
from .checker import PAUSE, Checker

_ROUNDS = 4  # one breach may hide another

#: What to do about a breach that is left, by its code.
_REMEDIES = {
    "message_without_job": "The message does not say what it asks for. Read it with LINDEX key -1, "
    "send its task anew, and DEL the list.",
    "job_without_demand": "The message does not say either what it asks for. Read it with LINDEX "
    "key -1, send its task anew, and revoke this one.",
    "left_behind": "Lost jobs have yet to be told by a node. Start one, and check again.",
}


def repair(
    service: MinimalSchedulerService,
    checker: Checker,
    breaches: list[Breach],
    pause: float = PAUSE,
) -> list[Breach]:
    """Mend these; what is left, each with its remedy."""
    for _ in range(_ROUNDS):
        if not any(breach.subject for breach in breaches):
            break
        _mend(service, breaches)
        breaches = checker.check(pause)
    return [
        breach.model_copy(update={"remedy": breach.remedy or _remedy(breach)})
        for breach in breaches
    ]


def _remedy(breach: Breach) -> str:
    return _REMEDIES.get(
        breach.code, "Check again. If it stays, keep the contents of the keys and report it."
    )


def _mend(service: MinimalSchedulerService, breaches: Iterable[Breach]) -> None:
    subjects = {breach.subject for breach in breaches if breach.subject}
    for kind, *args in sorted(subjects, key=lambda subject: (KINDS.index(subject[0]), subject)):
        try:
            _mend_one(service, kind, *args)
        except ResponseError as exc:
            # Else a key of the wrong type is in the way, which is a breach of its own.
            if "WRONGTYPE" not in str(exc):
                raise


def _mend_one(service: MinimalSchedulerService, kind: str, *args: str) -> None:
    match kind:
        case "node":
            service.repair_node(*args)
        case "line":
            service.repair_line(*args)
        case "count":
            service.recount_waiting(args[0], args[1:])
        case "job" | "slot":
            service.repair_job(_told(service, args[0]), *args)
        case "key":
            service.redis.delete(*args)
        case "ttl":
            service.redis.pexpire(args[0], int(args[1]))
        case "member":
            service.redis.srem(*args)
        case "field":
            service.redis.hdel(*args)


def _told(service: MinimalSchedulerService, job_id: str) -> DispatchRequest | None:
    """What the job's message says that it asks for, if it lies in the job's own list."""
    with service.redis.pipeline(transaction=False) as pipe:
        for suffix in service.keys.suffixes:
            pipe.lindex(service.keys("job_queue", job_id) + suffix, -1)
        messages = [message for message in pipe.execute() if message is not None]
    return request_of(read_message(messages[0])) if messages else None
