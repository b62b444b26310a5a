"""What a message says of its job: its headers, never its body, which stays as it came.

Messages come from whoever can write to Redis, so nothing of them is believed before it is checked.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple
from uuid import UUID

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import loads

from ..core import demand
from ..core.errors import InvalidDemand
from ..core.models import DispatchRequest, is_job_id
from .router import HEADER

#: What kombu raises for a text that is not JSON, or has a value that is not of its stated type.
NO_JSON: Final = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError)


def job_id_of(headers: Any) -> str:
    """The job that a message or request belongs to, "" for none of the scheduler's."""
    stated = headers.get(HEADER) if isinstance(headers, dict) else None
    job_id = stated.get("job_id") if isinstance(stated, dict) else None
    return job_id if isinstance(job_id, str) and is_job_id(job_id) else ""


def split_at(text: str, token: str) -> tuple[str, str]:
    """A message's text before and after the token that stands for its job's id."""
    head, _, tail = text.partition(json.dumps(token))
    return head, tail


def read_message(raw: str | bytes) -> dict[str, Any]:
    """A message as kombu's Redis transport keeps it; empty where it is none."""
    try:
        message = loads(raw)
    except (*NO_JSON, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def read_unacked(entry: str | bytes | None) -> dict[str, Any]:
    """The message of an entry of kombu's hash of unacknowledged messages; empty if it holds none.

    An entry is the message, and the exchange and the routing key to which it belongs.
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
    task: str  # its name
    task_id: str


def read_task(raw: str | bytes) -> TaskMessage | None:
    """A task's message as kombu's Redis transport keeps it; ``None`` for anything else."""
    message = read_message(raw)
    headers, properties = message.get("headers"), message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        return None
    task, task_id = headers.get("task"), headers.get("id")
    if not isinstance(task, str) or not isinstance(task_id, str | int | UUID):
        return None
    return TaskMessage(message, headers, properties, task, str(task_id))


def priority_of(message: dict[str, Any]) -> int:
    """A message's priority as kombu's Redis transport reads it (5.7, ``_get_message_priority``):
    any number, or a text that is one, bounded by 0 and 9. 0 for anything else.
    """
    try:
        return max(min(int(message["properties"]["priority"]), 9), 0)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def terms_of(message: dict[str, Any]) -> dict[str, Any]:
    """What a task's message says of its job beside the demand, read as Celery's worker and kombu
    read it: fields of a :class:`DispatchRequest`. Raises :class:`InvalidDemand`.
    """
    headers = message["headers"]
    expires_ts = _milliseconds(headers, "expires")
    return {
        "task_id": _task_id(headers["id"]),
        # A time before 1970 is over. 0 means that there is no time.
        "due_ts": max(_milliseconds(headers, "eta"), 0),
        "expires_ts": max(expires_ts, 1) if headers.get("expires") else 0,
        "priority": priority_of(message),
    }


def request_of(message: dict[str, Any]) -> DispatchRequest | None:
    """What the message's job asks for, as its publisher put it; ``None`` where that is not told."""
    try:
        headers = message["headers"]
        return demand.parse(headers[HEADER]["demand"]).request(
            task_name=str(headers.get("task", "")), **terms_of(message)
        )
    except (InvalidDemand, KeyError, TypeError, ValueError, AttributeError):
        return None


def _task_id(stated: object) -> str:
    """Celery takes any object as a task's id, and names keys by its text."""
    if not isinstance(stated, str | int | UUID):
        raise InvalidDemand(message=f"task_id: {stated!r} is neither a text nor a UUID")
    return str(stated)


def _milliseconds(headers: dict[str, Any], name: str) -> int:
    try:
        return milliseconds(headers.get(name))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InvalidDemand(message=f"{name}: {headers[name]!r} is no ISO 8601 time") from None


def milliseconds(when: str | None) -> int:
    """A header's ISO 8601 time as Celery's worker reads it (5.7), since the epoch; 0 for none. One
    without a zone is UTC. Raises ``ValueError``.
    """
    return int(maybe_make_aware(maybe_iso8601(when)).timestamp() * 1000) if when else 0
