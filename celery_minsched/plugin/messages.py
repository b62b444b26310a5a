"""Reads a message's headers. The body stays as it is.

Any program that can write to Redis can write a message, so each value is checked before its use.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple
from uuid import UUID

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import loads

from ..core import demand
from ..core.errors import InvalidDemand
from ..core.field_types import is_job_id
from ..core.job_fields import MessageParts
from ..core.models import DispatchRequest
from .header import HEADER

#: What kombu raises for a text that is not JSON, or for a value that is not of its stated type.
NO_JSON: Final = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError)


def job_id_of(headers: Any) -> str:
    """The job of a message or request, or "" if it is not the scheduler's."""
    header = headers.get(HEADER) if isinstance(headers, dict) else None
    job_id = header.get("job_id") if isinstance(header, dict) else None
    return job_id if isinstance(job_id, str) and is_job_id(job_id) else ""


def split_at(text: str, token: str) -> MessageParts:
    """A message's text before and after the token in place of its job's id."""
    head, _, tail = text.partition(json.dumps(token))
    return head, tail


def read_message(raw: str | bytes) -> dict[str, Any]:
    """A message as kombu's Redis transport stores it, or empty for an invalid text."""
    try:
        message = loads(raw)
    except (*NO_JSON, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def read_unacked(entry: str | bytes | None) -> dict[str, Any]:
    """The message in an entry of kombu's hash of unacknowledged messages, or empty.

    An entry is a list: the message, its exchange and its routing key.
    """
    try:
        message = loads(entry or "")[0]
    except (*NO_JSON, LookupError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


class TaskMessage(NamedTuple):
    """A message of Celery's protocol 2. Its parts may be changed in place."""

    content: dict[str, Any]
    headers: dict[str, Any]
    properties: dict[str, Any]
    task: str  # name of the task
    task_id: str


def read_task(raw: str | bytes) -> TaskMessage | None:
    """A task's message as kombu's Redis transport stores it, or ``None`` for any other text."""
    message = read_message(raw)
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return None
    task, task_id = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or not isinstance(task_id, str | int | UUID):
        return None
    return TaskMessage(message, headers, properties, task, str(task_id))


def priority_of(message: dict[str, Any]) -> int:
    """A message's priority, 0 to 9, as kombu's Redis transport reads it (5.7).

    ``_get_message_priority`` accepts a number or a text with a number. 0 for any other value.
    """
    try:
        return max(min(int(message["properties"]["priority"]), 9), 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def request_fields(message: dict[str, Any]) -> dict[str, Any]:
    """The fields of a :class:`DispatchRequest` that a task's message has besides the demand.

    Reads them as Celery's worker and kombu do. Raises :class:`InvalidDemand`.
    """
    headers = message["headers"]
    expires_ts = _milliseconds(headers, "expires")
    return {
        "task_id": _task_id(headers["id"]),
        # 0 means no time, and a time before 1970 is over.
        "due_ts": max(_milliseconds(headers, "eta"), 0),
        "expires_ts": max(expires_ts, 1) if headers.get("expires") else 0,
        "priority": priority_of(message),
    }


def request_of(message: dict[str, Any]) -> DispatchRequest | None:
    """The request of a message's job, or ``None`` if the message has no readable demand."""
    try:
        headers = message["headers"]
        return DispatchRequest.of(
            demand.parse(headers[HEADER]["demand"]),
            task_name=str(headers.get("task", "")),
            **request_fields(message),
        )
    except (InvalidDemand, KeyError, TypeError, ValueError, AttributeError):
        return None


def _task_id(value: object) -> str:
    """The text of a task's id, by which Celery names keys. Celery accepts any object."""
    if not isinstance(value, str | int | UUID):
        raise InvalidDemand(message=f"task_id: {value!r} is neither a text nor a UUID")
    return str(value)


def _milliseconds(headers: dict[str, Any], name: str) -> int:
    try:
        return milliseconds(headers.get(name))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidDemand(message=f"{name}: {headers[name]!r} is not an ISO 8601 time") from None


def milliseconds(when: str | None) -> int:
    """A header's ISO 8601 time in ms since the epoch, as Celery's worker reads it (5.7).

    0 for no time. A time without a zone is UTC. Raises ``ValueError``.
    """
    return int(maybe_make_aware(maybe_iso8601(when)).timestamp() * 1000) if when else 0
