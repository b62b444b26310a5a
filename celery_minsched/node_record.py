"""Reads the record of a node in Redis, and says in one word what the node does."""

from __future__ import annotations

import json

from .view_models import NodeView

NODE_FIELDS = (
    *("online", "state", "draining", "max_jobs", "offers", "load_json", "last_heartbeat_ts"),
    "instance",
)


def read_node(
    node_id: str, record: dict[str, str | None], taken: int, is_dead: bool, silent_since: float
) -> NodeView:
    """The node of a record with NODE_FIELDS, which holds ``taken`` slots.

    ``is_dead`` says that a script found the node dead. A node without a heartbeat since
    ``silent_since`` (ms) is dead too: no script finds it while no other node sends heartbeats.
    """
    offers = [line.split("\t") for line in (record["offers"] or "").splitlines()]
    last_heartbeat_ts = int(record["last_heartbeat_ts"] or 0)
    max_jobs = int(record["max_jobs"] or 0)
    return NodeView(
        node_id=node_id,
        state=_state(record, taken < max_jobs, is_dead or last_heartbeat_ts < silent_since),
        draining=record["draining"] == "true",
        max_jobs=max_jobs,
        current_jobs=taken,
        pools=sorted({pool for pool, _ in offers}),
        capabilities=sorted({capability for _, capability in offers if capability}),
        load=json.loads(record["load_json"] or "{}"),
        last_heartbeat_ts=last_heartbeat_ts,
        instance=record["instance"] or "",
    )


def _state(record: dict[str, str | None], is_free: bool, is_dead: bool) -> str:
    """One of NODE_STATES."""
    if is_dead or record["online"] != "true":
        if not record["instance"]:
            return "left"
        return "dead" if is_dead else record["state"] or "starting"
    if record["draining"] == "true":
        return "draining"
    return "free" if is_free else "full"
