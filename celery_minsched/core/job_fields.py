"""A job as the scripts take it, and its demand as they keep it in the job's record."""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from operator import attrgetter
from typing import Any, Final, NamedTuple

from .demand import Demand
from .keys import Keys
from .models import DispatchRequest, JobFields

#: A message's JSON text before the place of its job's id, and after it. Both are "" for no message.
MessageParts = tuple[str, str]


#: A job's request and message. The job's own fields replace the request's, which jobs may share.
JobToDispatch = (
    tuple[DispatchRequest, MessageParts] | tuple[DispatchRequest, MessageParts, JobFields]
)

#: Fields of a demand that have another name in the job's record.
_NAMES: Final = {"capabilities": "caps", "preferred_node": "preferred", "fairness_key": "fairness"}
#: Fields of a demand that are not in the job's record: ``where`` has the pool.
_NOT_STORED: Final = ("pool", "when_full")
#: The fields of a demand that are in the job's record, and their names there.
STORED_NAMES: Final = {
    field: _NAMES.get(field, field) for field in Demand.model_fields if field not in _NOT_STORED
}
#: The values of fields that dispatch_task need not get, if they are not "".
_DEFAULTS: Final = {"affinity": "prefer", "band": "0"}
#: The fields of a demand, without its list.
_DEMAND_FIELDS: Final = [field for field in Demand.model_fields if field != "capabilities"]


class JobArguments(NamedTuple):
    """A job and its message.

    The fields are the fields of ``jobs`` in the header of dispatch_task.
    """

    demand: str
    payload_json: str
    message_head: str
    message_tail: str


def job_arguments(
    keys: Keys,
    max_waiting: int,
    request: DispatchRequest,
    message: MessageParts,
    own: JobFields | None = None,
) -> JobArguments:
    """The arguments of dispatch_task for a job."""
    own = own or request
    demand = _demand_head(
        keys, max_waiting, own.priority, tuple(request.capabilities), *_demand_values(request)
    )
    if own.due_ts:
        demand += f', "due_ts": "{own.due_ts}"'
    if own.expires_ts:
        demand += f', "expires_ts": "{own.expires_ts}"'
    if own.task_id:
        demand += f', "task_id": {_quote(own.task_id)}'
    if own.token:
        demand += f', "token": {_quote(own.token)}'
    return JobArguments(demand + "}", request.payload_json, *message)


_demand_values = attrgetter(*_DEMAND_FIELDS)


@lru_cache(maxsize=1024)
def _demand_head(
    keys: Keys, max_waiting: int, priority: int, capabilities: tuple[str, ...], *values: str | None
) -> str:
    """The start of a JSON object: all fields but those that differ from job to job.

    To make this text takes longer than to make all others of a job.
    """
    given: dict[str, Any] = dict(zip(_DEMAND_FIELDS, values, strict=True))
    when_full = given["when_full"]
    demand = Demand.model_construct(**given, capabilities=list(capabilities))
    fields = demand_fields(demand) | _priority_fields(keys, priority)
    if when_full == "wait":
        fields |= {"when_full": when_full, "max_waiting": str(max_waiting)}
    fields = {name: text for name, text in fields.items() if text != _DEFAULTS.get(name, "")}
    return json.dumps(fields)[:-1]


def job_fields(keys: Keys, request: DispatchRequest) -> dict[str, str]:
    """The fields of the job's record that the caller gives, as in lua/dispatch_task.lua."""
    return {
        **demand_fields(request),
        **_priority_fields(keys, request.priority),
        "due_ts": str(request.due_ts),
        "expires_ts": str(request.expires_ts),
        "task_id": request.task_id,
        "token": request.token,
    }


def _priority_fields(keys: Keys, priority: int) -> dict[str, str]:
    return {"band": str(keys.priority_step(priority)), "suffix": keys.priority_suffix(priority)}


def demand_fields(demand: Demand) -> dict[str, str]:
    """The fields of the job's record that hold its demand; "" for what the demand leaves out."""
    fields = {name: _as_text(getattr(demand, field)) for field, name in STORED_NAMES.items()}
    fields["where"] = demand.pool_selector
    fields["fairness"] = fields["fairness"] or demand.session_id
    return fields


def _as_text(value: str | list[str] | None) -> str:
    return ",".join(value) if isinstance(value, list) else value or ""
