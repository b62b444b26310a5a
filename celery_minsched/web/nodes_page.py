"""The page of all nodes, and the page of one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..monitor.models import NodeView
from ..monitor.queries import Views
from .page_data import PageData, age, first_names, job_row, shown_of
from .table_request import FIRST_ROWS, MAX_ROWS, TableRequest, natural_key, select_rows

#: The order of the states on the page.
STATE_ORDER = (
    "broken",
    "dead",
    "stuck",
    "stopping",
    "draining",
    "starting",
    "full",
    "free",
    "left",
)

#: The states that need an operator.
ALARMING = ("broken", "dead", "stuck")

SORT_KEYS: dict[str, Callable[[NodeView], Any]] = {
    "node": lambda node: natural_key(node.node_id),
    "state": lambda node: STATE_ORDER.index(node.state),
    "slots": lambda node: node.current_jobs / max(node.max_jobs, 1),
    "load": lambda node: sum(_load(node).values()),
    "pools": lambda node: node.pools,
    "capabilities": lambda node: node.capabilities,
    "heard": lambda node: -node.last_heartbeat_ts,
}


def nodes_page(views: Views, _subject: str = "", request: TableRequest = FIRST_ROWS) -> PageData:
    """All nodes."""
    now, nodes = views.now(), views.nodes()
    online = [node for node in nodes if node.online]
    nodes.sort(key=lambda node: (STATE_ORDER.index(node.state), natural_key(node.node_id)))
    page = select_rows(nodes, request, SORT_KEYS, _searched_text)
    taken = sum(node.current_jobs for node in online)
    slots = sum(node.max_jobs for node in online)
    return {
        "texts": {
            "nodes": f"{len(online):,} / {len(nodes):,}",
            "slots": f"{taken:,} / {slots:,}",
            "waiting": f"{views.waiting_count():,}",
            "dead": f"{sum(node.state in ALARMING for node in nodes):,}",
        },
        "tables": {"nodes": [_row(node, now) for node in page.rows]},
        "numbers": {"nodes": page.numbers},
    }


def node_page(views: Views, subject: str = "", _request: TableRequest = FIRST_ROWS) -> PageData:
    """The node ``subject``, and the first of its jobs."""
    now, node = views.now(), views.node(subject)
    if node is None:
        return {"texts": {"state": "unknown"}, "tables": {"jobs": []}}
    jobs = views.jobs(MAX_ROWS, node_id=subject)
    return {
        "texts": {
            "state": node.state,
            "broken": node.broken,
            "slots": f"{node.current_jobs} / {node.max_jobs}",
            "pools": ", ".join(first_names(node.pools)),
            "capabilities": ", ".join(first_names(node.capabilities)),
            "load": ", ".join(f"{name} {value} %" for name, value in _load(node).items()),
            "heartbeat": age(node.last_heartbeat_ts, now),
            "instance": node.instance,
            "shown": shown_of(len(jobs), node.current_jobs),
        },
        "tables": {"jobs": [job_row(job, now) for job in jobs]},
    }


def _row(node: NodeView, now: int) -> dict[str, Any]:
    return {
        "id": node.node_id,
        "state": node.state,
        "taken": node.current_jobs,
        "slots": node.max_jobs,
        "load": _load(node),
        "pools": first_names(node.pools),
        "capabilities": first_names(node.capabilities),
        "silent": age(node.last_heartbeat_ts, now),
    }


def _searched_text(node: NodeView) -> str:
    return " ".join((node.node_id, node.state, *node.pools, *node.capabilities))


def _load(node: NodeView) -> dict[str, int]:
    """The load that the node reports, in percent."""
    return {
        name: round(float(value))
        for name in ("cpu", "gpu", "mem")
        if isinstance(value := node.load.get(name), int | float)
    }
