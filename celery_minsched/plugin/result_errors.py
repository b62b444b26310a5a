"""The errors that the scheduler stores as the results of tasks."""

from __future__ import annotations

from celery.exceptions import WorkerLostError


class NodeLostError(WorkerLostError):
    """The result of a task whose node died after the task's message was acknowledged.

    By Celery's contract the task does not run again. See ``acks_late`` and
    ``retry_on_worker_lost``.
    """


class MaxRescuesExceededError(Exception):
    """The result of a task under which ``minsched_max_rescues`` nodes have died."""


# A result backend stores an error by its module and name: the public module, which stays.
for _error in (NodeLostError, MaxRescuesExceededError):
    _error.__module__ = "celery_minsched"
