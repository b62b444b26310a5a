"""A job as the scripts take it, and its demand as they keep it in the job's record."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from .demand import Demand
from .keys import Keys
from .models import DispatchRequest

#: A message's JSON text before the place of its job's id, and after it. Both are "" for no message.
MessageParts = tuple[str, str]
JobToDispatch = tuple[DispatchRequest, MessageParts]

#: Fields of a demand that have another name in the job's record.
_NAMES: Final = {"capabilities": "caps", "preferred_node": "preferred", "fairness_key": "fairness"}
#: Fields of a demand that are not in the job's record: ``where`` has the pool.
_NOT_STORED: Final = ("pool", "when_full")
#: The fields of a demand that are in the job's record, and their names there.
STORED_NAMES: Final = {
    field: _NAMES.get(field, field) for field in Demand.model_fields if field not in _NOT_STORED
}


class JobArguments(NamedTuple):
    """A job and its message. The fields are those of ``jobs`` in the header of dispatch_task."""

    demand: str
    payload_json: str
    message_head: str
    message_tail: str


def job_arguments(
    keys: Keys, max_waiting: int, request: DispatchRequest, message: MessageParts
) -> JobArguments:
    """The arguments of dispatch_task for a job."""
    demand = {
        **job_fields(keys, request),
        "when_full": request.when_full,
        "max_waiting": str(max_waiting),
    }
    return JobArguments(json.dumps(demand), request.payload_json, *message)


def job_fields(keys: Keys, request: DispatchRequest) -> dict[str, str]:
    """The fields of the job's record that the caller gives; see lua/dispatch_task.lua for each."""
    return {
        **demand_fields(request),
        "band": str(keys.priority_step(request.priority)),
        "suffix": keys.priority_suffix(request.priority),
        "due_ts": str(request.due_ts),
        "expires_ts": str(request.expires_ts),
        "task_id": request.task_id,
        "token": request.token,
    }


def demand_fields(demand: Demand) -> dict[str, str]:
    """The fields of the job's record that hold its demand; "" for what the demand leaves out."""
    fields = {name: _as_text(getattr(demand, field)) for field, name in STORED_NAMES.items()}
    fields["where"] = demand.pool_selector
    fields["fairness"] = fields["fairness"] or demand.session_id
    return fields


def _as_text(value: str | list[str] | None) -> str:
    return ",".join(value) if isinstance(value, list) else value or ""
