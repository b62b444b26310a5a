"""``self.request.minsched``: a task's place, which a node reads from its message's header.

The request of any other task has the same keys with empty values: a task that runs eagerly, is
called as a function, or was sent without a demand. A class attribute would do, but celery (5.7)
leaves the attributes of ``Context`` out of ``request.headers``, by which a retry keeps its demand.
"""

from __future__ import annotations

from typing import Any

from celery.app.task import Context

from .router import HEADER


def no_place() -> dict[str, Any]:
    """The place of a task that the scheduler did not place."""
    return {
        "demand": {},
        "job_id": "",
        "node_id": "",
        "pool": "",
        "chosen_by": "",
        "waited_ms": 0,
        "claim": "",
    }


def _missing(context: Context, name: str) -> Any:
    if name == HEADER:
        return no_place()
    raise AttributeError(f"{type(context).__name__!r} object has no attribute {name!r}")


def give_requests_a_place() -> None:
    """Have all requests of this process tell their place."""
    if not hasattr(Context, "__getattr__"):
        Context.__getattr__ = _missing
