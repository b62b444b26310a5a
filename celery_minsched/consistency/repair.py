"""Repairs violations on a live system.

A script repairs a node, a line or a job as a whole, in one step, according to the state at that
moment. It does not change a sound object. So a repair that comes late or twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import ResponseError

from ..core.models import DispatchRequest
from ..core.scheduler import MinimalSchedulerService
from ..plugin.messages import read_message, request_of
from .checker import PAUSE, Checker
from .violation import KINDS, Violation

_ROUNDS = 4  # a repair can reveal another violation

#: Remedies for violations that a repair could not mend, by code.
_REMEDIES = {
    "message_without_job": "The message does not contain its demand. Read it with LINDEX key -1, "
    "send its task again, and DEL the list.",
    "job_without_demand": "The message does not contain the demand either. Read it with LINDEX "
    "key -1, send its task again, and revoke this one.",
    "left_behind": "A node must report the lost jobs. Start a node, and check again.",
}


def repair(
    service: MinimalSchedulerService,
    checker: Checker,
    violations: list[Violation],
    pause: float = PAUSE,
) -> list[Violation]:
    """Repair the violations. Returns those that are left, each with its remedy."""
    for _ in range(_ROUNDS):
        if not any(violation.subject for violation in violations):
            break
        _repair_all(service, violations)
        violations = checker.check(pause)
    return [
        violation.model_copy(update={"remedy": violation.remedy or _remedy(violation)})
        for violation in violations
    ]


def _remedy(violation: Violation) -> str:
    return _REMEDIES.get(
        violation.code, "Check again. If it stays, keep the contents of the keys and report it."
    )


def _repair_all(service: MinimalSchedulerService, violations: Iterable[Violation]) -> None:
    subjects = {violation.subject for violation in violations if violation.subject}
    for kind, *args in sorted(subjects, key=lambda subject: (KINDS.index(subject[0]), subject)):
        try:
            _repair_one(service, kind, *args)
        except ResponseError as exc:
            # A key of the wrong type stops this repair, and is a violation of its own.
            if "WRONGTYPE" not in str(exc):
                raise


def _repair_one(service: MinimalSchedulerService, kind: str, *args: str) -> None:
    match kind:
        case "node":
            service.repair_node(*args)
        case "line":
            service.repair_line(*args)
        case "count":
            service.recount_waiting(args[0], args[1:])
        case "job" | "slot":
            service.repair_job(_demand_in_message(service, args[0]), *args)
        case "key":
            service.redis.delete(*args)
        case "ttl":
            service.redis.pexpire(args[0], int(args[1]))
        case "member":
            service.redis.srem(*args)
        case "field":
            service.redis.hdel(*args)


def _demand_in_message(service: MinimalSchedulerService, job_id: str) -> DispatchRequest | None:
    """The demand in the job's message, if the message is in the job's own list."""
    with service.redis.pipeline(transaction=False) as pipe:
        for suffix in service.keys.suffixes:
            pipe.lindex(service.keys("job_queue", job_id) + suffix, -1)
        messages = [message for message in pipe.execute() if message is not None]
    return request_of(read_message(messages[0])) if messages else None
