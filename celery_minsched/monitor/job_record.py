"""Reads the record of a job in Redis."""

from __future__ import annotations

import re
from typing import Final

from ..core.stored import Fields, is_json
from .models import JOB_STATES, JobView

NUMBERS: Final = tuple(
    name for name, field in JobView.model_fields.items() if field.annotation is int
)
_TEXTS: Final = tuple(
    name
    for name, field in JobView.model_fields.items()
    if field.annotation is str and name not in ("job_id", "broken", "status")
)
_GIVEN: Final = (*NUMBERS, *_TEXTS, "status")
#: What :func:`is_readable` looks at.
CHECKED: Final = ("status", *NUMBERS, "decision", "payload_json")
#: What describe_choice of lua/include/node_choice.lua writes.
_ORDER: Final = r"[0-9]{1,17}(\.[0-9]{1,17})?(e\+[0-9]{1,2})?"
_DECISION: Final = re.compile(rf"[0-9]{{1,9}} {_ORDER}( \S+ {_ORDER})?")


def is_readable(status: str, *values: str) -> bool:
    """Can a record be read that has these CHECKED fields?

    It says no to some that can. :func:`read_job` knows.
    """
    *numbers, decision, payload = values
    digits = "".join(numbers)
    return (
        status in JOB_STATES
        and status != "broken"
        and (not digits or (digits.isascii() and digits.isdigit()))
        and max(map(len, numbers)) <= 16
        and (not decision or _DECISION.fullmatch(decision) is not None)
        and (not payload or payload == "{}" or is_json(payload))
    )


def read_job(job_id: str, record: dict[str, str]) -> JobView:
    """The job of a record. Its status is ``broken`` if something cannot be read."""
    if is_readable(*(record.get(name, "") for name in CHECKED)):
        given = {name: value for name in _GIVEN if (value := record.get(name))}
        return JobView.model_validate({**given, "job_id": job_id})
    fields = Fields(record)
    fields.missing("status")
    status = fields.one_of("status", JOB_STATES[:-1])
    numbers = {name: fields.integer(name) for name in NUMBERS}
    texts = {name: fields.text(name) for name in _TEXTS}
    fields.json("payload_json")
    texts["decision"] = fields.matching("decision", _DECISION)
    if fields.broken:
        status = "broken"
    texts["payload_json"] = texts["payload_json"] or "{}"
    known = {**texts, **numbers, "status": status, "broken": fields.broken}
    return JobView.model_validate({**known, "job_id": job_id})


def unreadable_job(job_id: str, broken: str) -> JobView:
    """A job of whose record nothing can be read."""
    return JobView(job_id=job_id, status="broken", broken=broken)
