"""The page of all nodes, and the page of one node."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any

from ..core.field_types import RESOURCES
from ..monitor.models import NODE_DESCRIPTION, NodeView
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
    **{name: attrgetter(name) for name in NODE_DESCRIPTION},
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
            **{name: ", ".join(names) for name, names in _description(node).items()},
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
        "description": _description(node),
        "silent": age(node.last_heartbeat_ts, now),
    }


def _searched_text(node: NodeView) -> str:
    return " ".join((node.node_id, node.state, *chain(*node.description.values())))


def _description(node: NodeView) -> dict[str, list[str]]:
    return {name: first_names(names) for name, names in node.description.items()}


def _load(node: NodeView) -> dict[str, int]:
    """The load that the node reports, in percent."""
    return {
        name: round(float(value))
        for name in RESOURCES
        if isinstance(value := node.load.get(name), int | float)
    }
