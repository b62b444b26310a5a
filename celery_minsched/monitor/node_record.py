"""Decodes the record of a node in Redis and derives the node's state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..core.field_types import MAX_SLOTS
from ..core.stored import Fields
from .models import NODE_STATES, NodeView

_BOOLEANS = ("true", "false")

#: How each field of a node's record is decoded. All others are texts.
_DECODERS: Final[dict[str, Callable[[Fields, str], Any]]] = {
    **dict.fromkeys(("online", "draining"), lambda fields, name: fields.one_of(name, _BOOLEANS)),
    "state": lambda fields, name: fields.one_of(name, NODE_STATES),
    "max_jobs": lambda fields, name: fields.integer(name, least=1, most=MAX_SLOTS),
    **dict.fromkeys(("offers", "speaks"), Fields.indexes),
    "load_json": lambda fields, _name: fields.load(),
    **dict.fromkeys(("cap_json", "pools_json"), Fields.json),
    **dict.fromkeys(
        (
            *("current_jobs", "last_heartbeat_ts", "registered_ts", "stuck_until"),
            *("turn", "turn_base", "term"),
        ),
        Fields.integer,
    ),
    **dict.fromkeys(("concurrency", "load", "unread_ms", "interval_ms"), Fields.number),
}

#: The texts of a record that a :class:`NodeView` has as they are.
_TEXTS: Final = tuple(
    name
    for name, field in NodeView.model_fields.items()
    if field.annotation is str and name not in ("node_id", "state", "broken")
)
#: The fields that a :class:`NodeView` is made of.
NODE_FIELDS: Final = (
    *("online", "state", "draining", "max_jobs", "offers", "load_json", "last_heartbeat_ts"),
    *_TEXTS,
)
#: The fields that a check reads: all that views and scripts read.
CHECKED_FIELDS: Final = tuple(name for name in _DECODERS if name != "current_jobs")


def decode(record: Mapping[str, str | None]) -> tuple[dict[str, Any], str]:
    """The values of a record's fields by name, and the faults of unreadable fields in words.

    An unreadable field has the value of a missing field. The faults are "" for a sound record.
    """
    fields = Fields(record)
    values = {name: _DECODERS.get(name, Fields.text)(fields, name) for name in record}
    return values, fields.broken


def read_node(
    node_id: str,
    record: Mapping[str, str | None],
    current_jobs: str | None,
    found_dead: bool,
    oldest_heartbeat: float,
) -> NodeView:
    """The node of a record with NODE_FIELDS.

    ``found_dead``: a script has found that the node is dead. A node is also dead if its last
    heartbeat is before ``oldest_heartbeat`` (ms): if no other node sends heartbeats, no script
    finds it.
    """
    values, broken = decode({**record, "current_jobs": current_jobs})
    is_dead = found_dead or values["last_heartbeat_ts"] < oldest_heartbeat
    is_free = values["current_jobs"] < values["max_jobs"]
    return NodeView(
        node_id=node_id,
        state="broken" if broken else _state(record, is_free, is_dead),
        broken=broken,
        draining=record["draining"] == "true",
        max_jobs=values["max_jobs"],
        current_jobs=values["current_jobs"],
        pools=sorted({pool for pool, _ in values["offers"]}),
        capabilities=sorted({capability for _, capability in values["offers"] if capability}),
        load=values["load_json"],
        last_heartbeat_ts=values["last_heartbeat_ts"],
        **{name: values[name] for name in _TEXTS},
    )


def unreadable_node(node_id: str, broken: str) -> NodeView:
    """A node whose record is unreadable as a whole."""
    return NodeView(
        node_id=node_id,
        state="broken",
        broken=broken,
        draining=False,
        max_jobs=0,
        current_jobs=0,
        pools=[],
        capabilities=[],
        load={},
        last_heartbeat_ts=0,
    )


def _state(record: Mapping[str, str | None], is_free: bool, is_dead: bool) -> str:
    """One of NODE_STATES."""
    if is_dead or record["online"] != "true":
        if not record["instance"]:
            return "left"
        return "dead" if is_dead else record["state"] or "starting"
    if record["draining"] == "true":
        return "draining"
    return "free" if is_free else "full"
