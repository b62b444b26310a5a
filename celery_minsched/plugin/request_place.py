"""``self.request.minsched``: the job of a running task, which a node reads from its message.

The requests of all other tasks have the same keys with empty values. These tasks run eagerly, are
called as functions, or were sent without a demand. A class attribute of ``Context`` is not enough:
celery (5.7) leaves class attributes out of ``request.headers``, and a retry takes its demand from
there.
"""

from __future__ import annotations

from typing import Any

from celery.app.task import Context

from .header import HEADER


def empty_place() -> dict[str, Any]:
    """The value for a task that the scheduler did not dispatch."""
    return {
        "demand": {},
        "job_id": "",
        "node_id": "",
        "pool": "",
        "chosen_by": "",
        "waited_ms": 0,
        "claim": "",
    }


def _missing_attribute(context: Context, name: str) -> Any:
    if name == HEADER:
        return empty_place()
    raise AttributeError(f"{type(context).__name__!r} object has no attribute {name!r}")


def add_place_to_requests() -> None:
    """Give all requests of this process the attribute ``minsched``."""
    if not hasattr(Context, "__getattr__"):
        Context.__getattr__ = _missing_attribute
