"""A job as the scripts take it, and its demand as they keep it in the job's record."""

from __future__ import annotations

import json
from functools import lru_cache
from operator import attrgetter
from typing import Final, Literal, NamedTuple

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

#: The values of fields that dispatch_task need not get, if they are not "".
_DEFAULTS: Final = {"affinity": "prefer", "band": "0", "due_ts": "0", "expires_ts": "0"}


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
    # Few demands differ in the fields of the first text. To make it takes longer than the rest.
    common = _common_text(*_common_values(request), tuple(request.capabilities), max_waiting)
    own = _without_defaults(_own_demand_fields(request) | _own_fields(keys, request))
    demand = f"{common[:-1]}, {json.dumps(own)[1:]}" if own else common
    return JobArguments(demand, request.payload_json, *message)


def job_fields(keys: Keys, request: DispatchRequest) -> dict[str, str]:
    """The fields of the job's record that the caller gives; see lua/dispatch_task.lua for each."""
    return {**demand_fields(request), **_own_fields(keys, request)}


def demand_fields(demand: Demand) -> dict[str, str]:
    """The fields of the job's record that hold its demand; "" for what the demand leaves out."""
    return {**_common_demand_fields(demand), **_own_demand_fields(demand)}


_common_values = attrgetter("pool", "src_lang", "tgt_lang", "affinity", "when_full")


@lru_cache(maxsize=1024)
def _common_text(
    pool: str | None,
    src_lang: str | None,
    tgt_lang: str | None,
    affinity: Literal["prefer", "require", "none"],
    when_full: str,
    capabilities: tuple[str, ...],
    max_waiting: int,
) -> str:
    """The JSON object of the fields that jobs of one demand have in common."""
    demand = Demand.model_construct(
        pool=pool,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        affinity=affinity,
        capabilities=list(capabilities),
    )
    limits = {"when_full": when_full, "max_waiting": str(max_waiting)}
    fields = _common_demand_fields(demand) | (limits if when_full == "wait" else {})
    return json.dumps(_without_defaults(fields))


def _without_defaults(fields: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in fields.items() if text != _DEFAULTS.get(name, "")}


def _common_demand_fields(demand: Demand) -> dict[str, str]:
    return {
        "where": demand.pool_selector,
        "src_lang": demand.src_lang or "",
        "tgt_lang": demand.tgt_lang or "",
        "caps": ",".join(demand.capabilities),
        "affinity": demand.affinity,
    }


def _own_demand_fields(demand: Demand) -> dict[str, str]:
    return {
        "session_id": demand.session_id,
        "preferred": demand.preferred_node or "",
        "fairness": demand.fairness_key or demand.session_id,
    }


def _own_fields(keys: Keys, request: DispatchRequest) -> dict[str, str]:
    return {
        "band": str(keys.priority_step(request.priority)),
        "suffix": keys.priority_suffix(request.priority),
        "due_ts": str(request.due_ts),
        "expires_ts": str(request.expires_ts),
        "task_id": request.task_id,
        "token": request.token,
    }
