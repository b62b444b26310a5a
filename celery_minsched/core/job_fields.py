"""What a job asks for, as the scripts keep it in the job's record."""

from __future__ import annotations

import json
from typing import NamedTuple

from .keys import Keys
from .models import DispatchRequest


class JobArguments(NamedTuple):
    """A job and its message. The fields are those of ``jobs`` in the header of dispatch_task."""

    demand: str
    payload_json: str
    message_head: str
    message_tail: str


def job_arguments(
    keys: Keys, max_waiting: int, request: DispatchRequest, message: tuple[str, str]
) -> JobArguments:
    """The arguments of dispatch_task for a job."""
    demand = {
        **job_fields(keys, request),
        "when_full": request.when_full,
        "max_waiting": str(max_waiting),
    }
    return JobArguments(json.dumps(demand), request.payload_json, *message)


def job_fields(keys: Keys, request: DispatchRequest) -> dict[str, str]:
    """The record's fields that state the demand; see lua/dispatch_task.lua for each."""
    return {
        "session_id": request.session_id,
        "src_lang": request.src_lang or "",
        "tgt_lang": request.tgt_lang or "",
        "where": request.where,
        "caps": ",".join(request.capabilities),
        "preferred": request.preferred_node or "",
        "affinity": request.affinity,
        "fairness": request.fairness_key or request.session_id,
        "band": str(keys.band(request.priority)),
        "suffix": keys.suffix(request.priority),
        "due_ts": str(request.due_ts),
        "expires_ts": str(request.expires_ts),
        "task_id": request.task_id,
        "token": request.token,
    }
