"""Decodes the record of a job in Redis."""

from __future__ import annotations

import re
from typing import Final

from ..core.statuses import STATUSES
from ..core.stored import Fields, is_json
from .models import JobView

NUMBERS: Final = tuple(
    name for name, field in JobView.model_fields.items() if field.annotation is int
)
_TEXTS: Final = tuple(
    name
    for name, field in JobView.model_fields.items()
    if field.annotation is str and name not in ("job_id", "broken", "status")
)
_FIELDS: Final = (*NUMBERS, *_TEXTS, "status")
#: The fields that :func:`is_readable` takes.
CHECKED: Final = ("status", *NUMBERS, "decision", "payload_json")
#: The format in which describe_choice of lua/include/node_choice.lua writes a decision.
_ORDER: Final = r"[0-9]{1,17}(\.[0-9]{1,17})?(e\+[0-9]{1,2})?"
_DECISION: Final = re.compile(rf"[0-9]{{1,9}} {_ORDER}( \S+ {_ORDER})?")


def is_readable(status: str, *values: str) -> bool:
    """Is a record with these CHECKED fields readable?

    This fast check rejects some readable records. :func:`read_job` decides about those.
    """
    *numbers, decision, payload = values
    digits = "".join(numbers)
    return (
        status in STATUSES
        and (not digits or (digits.isascii() and digits.isdigit()))
        and max(map(len, numbers)) <= 16
        and (not decision or _DECISION.fullmatch(decision) is not None)
        and (not payload or payload == "{}" or is_json(payload))
    )


def read_job(job_id: str, record: dict[str, str]) -> JobView:
    """The job of a record. Its status is ``broken`` if a field is unreadable."""
    if is_readable(*(record.get(name, "") for name in CHECKED)):
        stored = {name: value for name in _FIELDS if (value := record.get(name))}
        return JobView.model_validate({**stored, "job_id": job_id})
    fields = Fields(record)
    fields.missing("status")
    status = fields.one_of("status", STATUSES)
    numbers = {name: fields.integer(name) for name in NUMBERS}
    texts = {name: fields.text(name) for name in _TEXTS}
    fields.json("payload_json")
    texts["decision"] = fields.matching("decision", _DECISION)
    if fields.broken:
        status = "broken"
    texts["payload_json"] = texts["payload_json"] or "{}"
    readable = {**texts, **numbers, "status": status, "broken": fields.broken}
    return JobView.model_validate({**readable, "job_id": job_id})


def unreadable_job(job_id: str, broken: str) -> JobView:
    """A job whose record is unreadable as a whole."""
    return JobView(job_id=job_id, status="broken", broken=broken)
