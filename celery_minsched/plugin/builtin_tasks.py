"""Celery's own tasks run at the nodes of the tasks that they serve. A fleet needs no plain worker.

``chord_unlock`` waits for the header of a chord if the result backend cannot count its tasks.
``map`` and ``starmap`` (also for ``chunks``) call another task once for each item. (celery 5.7,
app/builtins.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery


def served_task(name: str, args: object, kwargs: object) -> Mapping[str, Any]:
    """The signature of the task that a task of Celery's own serves, or empty for other tasks."""
    if name == "celery.chord_unlock" and isinstance(args, list | tuple) and len(args) > 1:
        signature = args[1]
    elif name in ("celery.map", "celery.starmap") and isinstance(kwargs, Mapping):
        signature = kwargs.get("task")
    else:
        return {}
    return signature if isinstance(signature, Mapping) and signature.get("task") else {}


def drop_default_queue(app: Celery, served: Mapping[str, Any], options: dict[str, Any]) -> None:
    """Remove the queue from the options of ``chord_unlock`` unless the served task names one.

    The result backend has put the default queue there.
    """
    task = app.tasks.get(served["task"])
    if not served.get("options", {}).get("queue") and not getattr(task, "queue", None):
        options.pop("queue", None)
