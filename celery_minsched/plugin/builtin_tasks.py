"""Celery's own tasks run where the tasks that they serve run, so a fleet needs no plain worker.

``chord_unlock`` waits for the header of a chord if the result backend cannot count its tasks.
``map`` and ``starmap`` (also for ``chunks``) call another task once for each item. (celery 5.7,
app/builtins.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery


def served_task(name: str, args: object, kwargs: object) -> Mapping[str, Any]:
    """The signature of the task that a task of Celery's own serves; empty for any other task."""
    if name == "celery.chord_unlock" and isinstance(args, list | tuple) and len(args) > 1:
        found = args[1]
    elif name in ("celery.map", "celery.starmap") and isinstance(kwargs, Mapping):
        found = kwargs.get("task")
    else:
        return {}
    return found if isinstance(found, Mapping) and found.get("task") else {}


def drop_default_queue(app: Celery, served: Mapping[str, Any], options: dict[str, Any]) -> None:
    """Take the queue out of the options of ``chord_unlock`` unless the served task states one.

    The backend fills in the default queue otherwise.
    """
    task = app.tasks.get(served["task"])
    if not served.get("options", {}).get("queue") and not getattr(task, "queue", None):
        options.pop("queue", None)
