"""What a message says of its job: its headers, never its body, which stays as it came.

Messages come from whoever can write to Redis, so nothing of them is believed before it is checked.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from celery.utils.time import maybe_iso8601, maybe_make_aware

from . import demand
from .errors import InvalidDemand
from .models import DispatchRequest, is_job_id
from .router import HEADER


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
        message = json.loads(raw)
    except (ValueError, RecursionError):
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
    if not isinstance(task, str) or not isinstance(task_id, str):
        return None
    return TaskMessage(message, headers, properties, task, task_id)


def priority_of(message: dict[str, Any]) -> int:
    """Celery's priority of a message; 0 where it tells none."""
    properties = message.get("properties")
    given = properties.get("priority") if isinstance(properties, dict) else None
    return given if isinstance(given, int) else 0


def request_of(message: dict[str, Any]) -> DispatchRequest | None:
    """What the message's job asks for, as its publisher put it; ``None`` where that is not told."""
    headers = message.get("headers")
    try:
        stated = headers[HEADER]["demand"]  # type: ignore[index]
        return demand.parse(stated).request(
            task_id=headers["id"],  # type: ignore[index]
            task_name=str(headers.get("task", "")),  # type: ignore[union-attr]
            due_ts=milliseconds(headers.get("eta")),  # type: ignore[union-attr]
            expires_ts=milliseconds(headers.get("expires")),  # type: ignore[union-attr]
            priority=priority_of(message),
        )
    except (InvalidDemand, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def milliseconds(when: str | None) -> int:
    """A header's ISO 8601 time as Celery's worker reads it (5.7), since the epoch; 0 for none. One
    without a zone is UTC. Raises ``ValueError``.
    """
    return int(maybe_make_aware(maybe_iso8601(when)).timestamp() * 1000) if when else 0
