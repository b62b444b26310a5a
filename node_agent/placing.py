"""Has the scheduler place jobs again whose messages return to their own lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from redis.exceptions import ResponseError

from celery_minsched import MinimalSchedulerService

from .outbox import Outbox, is_temporary

_TRIES, _PAUSE = 50, 0.02  # seconds


def by_age(job_ids: Iterable[str]) -> list[str]:
    """Jobs in the order in which they were sent: the number at the end of an id counts up."""
    return sorted(job_ids, key=lambda job_id: int((re.search(r"\d+$", job_id) or "0")[0]))


class Placing:
    """Places jobs through the outbox. A job is placed as soon as its message is in its own list."""

    def __init__(self, scheduler: MinimalSchedulerService, node_id: str, outbox: Outbox) -> None:
        self._scheduler = scheduler
        self._node_id = node_id
        self._outbox = outbox
        #: Jobs that the node has handed back, and that Redis has not placed yet.
        self.unplaced: set[str] = set()

    def place(self, job_ids: list[str], requeued: bool = False) -> None:
        """Place jobs that the node holds no longer. Safe from any thread."""
        self.unplaced.update(job_ids)
        self._put(job_ids, requeued)

    def _put(
        self, job_ids: list[str], requeued: bool, tries: int = _TRIES, pause: float = 0.0
    ) -> None:
        if job_ids:
            self._outbox.put(
                f"place {', '.join(job_ids)}",
                partial(self._place, job_ids, requeued, tries),
                give_up=partial(self.unplaced.difference_update, job_ids),
                pause=pause,
            )

    def _place(self, job_ids: list[str], requeued: bool, tries: int) -> None:
        try:
            outcomes = self._scheduler.place_jobs(job_ids, self._node_id, requeued)
        except ResponseError as exc:
            if len(job_ids) == 1 or is_temporary(exc):
                raise
            for job_id in job_ids:  # the error of one job must not hold up the others
                self._put([job_id], requeued, tries)
            return
        pairs = zip(job_ids, outcomes, strict=True)
        waiting = [job_id for job_id, outcome in pairs if outcome == "unchanged" and tries > 1]
        self.unplaced.difference_update(set(job_ids) - set(waiting))
        # Celery may put the message back a moment later, in the event loop.
        self._put(waiting, requeued, tries - 1, pause=_PAUSE)
