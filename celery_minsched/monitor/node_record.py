"""Reads the record of a node in Redis, and says in one word what the node does."""

from __future__ import annotations

from ..core.models import MAX_SLOTS
from ..core.stored import Fields
from .models import NODE_STATES, NodeView

NODE_FIELDS = (
    *("online", "state", "draining", "max_jobs", "offers", "load_json", "last_heartbeat_ts"),
    "instance",
)
#: All that :func:`check_fields` looks at.
CHECKED_FIELDS = (
    *("online", "state", "draining", "max_jobs", "offers", "speaks", "load_json", "cap_json"),
    *("pools_json", "last_heartbeat_ts", "registered_ts", "concurrency", "load", "turn"),
    *("turn_base", "term", "unread_ms", "stuck_until", "interval_ms"),
)
_BOOLEANS = ("true", "false")


def read_node(
    node_id: str,
    record: dict[str, str | None],
    taken: str | None,
    is_dead: bool,
    silent_since: float,
) -> NodeView:
    """The node of a record with NODE_FIELDS, which holds ``taken`` slots.

    ``is_dead`` says that a script found the node dead. A node without a heartbeat since
    ``silent_since`` (ms) is dead too: no script finds it while no other node sends heartbeats.
    """
    fields = Fields({**record, "current_jobs": taken})
    offers = fields.indexes("offers")
    last_heartbeat_ts = fields.integer("last_heartbeat_ts")
    max_jobs = fields.integer("max_jobs", least=1, most=MAX_SLOTS)
    current_jobs = fields.integer("current_jobs")
    load = fields.load()
    _check_words(fields)
    is_dead, is_free = is_dead or last_heartbeat_ts < silent_since, current_jobs < max_jobs
    return NodeView(
        node_id=node_id,
        state="broken" if fields.broken else _state(record, is_free, is_dead),
        broken=fields.broken,
        draining=record["draining"] == "true",
        max_jobs=max_jobs,
        current_jobs=current_jobs,
        pools=sorted({pool for pool, _ in offers}),
        capabilities=sorted({capability for _, capability in offers if capability}),
        load=load,
        last_heartbeat_ts=last_heartbeat_ts,
        instance=fields.text("instance"),
    )


def check_fields(fields: Fields) -> None:
    """Note all that cannot be read of a node's record, as views and scripts read it."""
    fields.integer("max_jobs", least=1, most=MAX_SLOTS)
    for name in ("offers", "speaks"):
        fields.indexes(name)
    fields.load()
    for name in ("cap_json", "pools_json"):
        fields.json(name)
    for name in ("last_heartbeat_ts", "registered_ts", "stuck_until", "turn", "turn_base", "term"):
        fields.integer(name)
    for name in ("concurrency", "load", "unread_ms", "interval_ms"):
        fields.number(name)
    _check_words(fields)


def _check_words(fields: Fields) -> None:
    for name in ("online", "draining"):
        fields.one_of(name, _BOOLEANS)
    fields.one_of("state", NODE_STATES)


def unreadable_node(node_id: str, broken: str) -> NodeView:
    """A node of whose record nothing can be read."""
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


def _state(record: dict[str, str | None], is_free: bool, is_dead: bool) -> str:
    """One of NODE_STATES; ``is_dead`` as in :func:`read_node`."""
    if is_dead or record["online"] != "true":
        if not record["instance"]:
            return "left"
        return "dead" if is_dead else record["state"] or "starting"
    if record["draining"] == "true":
        return "draining"
    return "free" if is_free else "full"
