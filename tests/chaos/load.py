"""The jobs of the soak, with more long jobs and with priorities of each type."""

from __future__ import annotations

from typing import Any

from ..soak.load import LONG, Job, Kind, Producer
from .app import URGENT

KINDS = [
    Kind("early", "early", 0.17),
    Kind("late", "late", 0.17),
    Kind("long, early", "early", 0.08, takes=LONG),
    Kind("long, late", "late", 0.08, takes=LONG),
    Kind("retrying, early", "retrying_early", 0.08),
    Kind("retrying, late", "retrying_late", 0.08),
    Kind("delayed, early", "early", 0.07, countdown=(0.2, 8.0)),
    Kind("delayed, late", "late", 0.07, countdown=(0.2, 8.0)),
    Kind("failing, early", "failing_early", 0.05),
    Kind("failing, late", "failing_late", 0.05),
    Kind("requeueing, late", "requeueing_late", 0.07),
    Kind("revoked", "late", 0.03, countdown=(2.0, 6.0), revoke=True),
]

#: ``URGENT`` stands for a priority that a handler of ``before_task_publish`` sets.
PRIORITIES = (None, None, 0, 3, "6", 6.0, 9, URGENT)


class ChaosProducer(Producer):
    """Sends the jobs with their priorities."""

    def _options(self, job: Job) -> dict[str, Any]:
        return {"shadow": URGENT} if job.priority == URGENT else {"priority": job.priority}
