"""The page that explains where a task is."""

from __future__ import annotations

from typing import Any

from ..monitor.explain import Candidate, why
from ..monitor.queries import Views
from .page_data import PageData
from .table_request import FIRST_ROWS, TableRequest


def why_page(views: Views, subject: str = "", _request: TableRequest = FIRST_ROWS) -> PageData:
    """The reason why the task ``subject`` is at its node, or why it waits."""
    if not subject:
        return {}
    explanation = why(views, subject)
    job, place = explanation.job, explanation.place_in_line
    return {
        "texts": {
            "state": explanation.verdict,
            "demand": explanation.demand,
            "task": job.task if job else "",
            "job": job.job_id if job else "",
            "node": job.node_id if job else "",
            "line": "" if place is None else f"{place + 1}",
        },
        "lists": {"story": explanation.story},
        "tables": {"candidates": [_row(node) for node in explanation.candidates]},
    }


def _row(node: Candidate) -> dict[str, Any]:
    return {
        "id": node.node_id,
        "state": node.obstacle or "free",
        "fits": not node.obstacle,
        "taken": node.taken,
        "slots": node.slots,
        "load": {name: round(value) for name, value in node.load.items()},
    }
