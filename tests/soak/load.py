"""The jobs and the times at which they are sent. The same seed gives the same jobs."""

from __future__ import annotations

import heapq
import logging
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A kind of job. Times are seconds, drawn from a range with a uniform distribution."""

    name: str
    task: str
    share: float  # of all jobs
    takes: tuple[float, float] = (0.0, 0.1)
    countdown: tuple[float, float] | None = None
    revoke: bool = False

    @property
    def is_late(self) -> bool:
        """True if the task acknowledges late, so it must run to its end."""
        return self.task.endswith("late") or self.task == "poison"


LONG = (2.0, 8.0)  # seconds. Most values exceed the TTL and the lease
POISON = Kind("poison", "poison", 0.0)
KINDS = [
    Kind("early", "early", 0.34),
    Kind("late", "late", 0.34),
    Kind("long, early", "early", 0.007, takes=LONG),
    Kind("long, late", "late", 0.007, takes=LONG),
    Kind("retrying, early", "retrying_early", 0.04),
    Kind("retrying, late", "retrying_late", 0.04),
    Kind("delayed, early", "early", 0.05, countdown=(0.2, 8.0)),
    Kind("delayed, late", "late", 0.05, countdown=(0.2, 8.0)),
    Kind("failing, early", "failing_early", 0.05),
    Kind("failing, late", "failing_late", 0.05),
    Kind("revoked", "late", 0.026, countdown=(2.0, 6.0), revoke=True),
]


@dataclass(frozen=True)
class Job:
    """A job to be sent."""

    due: float  # seconds after the start
    kind: Kind
    takes: float
    countdown: float | None
    priority: Any
    session: str


def plan(
    seed: int,
    count: int,
    poisons: int,
    seconds: float,
    kinds: Sequence[Kind] = KINDS,
    priorities: Sequence[Any] = (0, 0, 0, 9),
) -> list[Job]:
    """All jobs, in the order in which they are sent."""
    draw = random.Random(f"load {seed}")
    job_kinds = draw.choices(kinds, [kind.share for kind in kinds], k=count - poisons)
    job_kinds += [POISON] * poisons
    draw.shuffle(job_kinds)
    return [
        Job(
            due=seconds * number / count,
            kind=kind,
            takes=draw.uniform(*kind.takes),
            countdown=draw.uniform(*kind.countdown) if kind.countdown else None,
            priority=draw.choice(priorities),
            session=draw.choice(["", "", f"s{draw.randrange(50)}"]),
        )
        for number, kind in enumerate(job_kinds)
    ]


class Producer:
    """Sends the jobs at their times. Jobs that are due together go into one batch."""

    def __init__(self, app: Celery, jobs: list[Job]) -> None:
        self.accepted: dict[str, Job] = {}
        self.refused = 0  # jobs whose apply_async raised. Redis may have accepted them
        self._app = app
        self._jobs = jobs
        self._revocations: list[tuple[float, str]] = []

    def run(self) -> None:
        """Send all jobs and all revocations."""
        start = time.monotonic()
        rest = iter(self._jobs)
        job = next(rest, None)
        while job or self._revocations:
            now = time.monotonic() - start
            due = []
            while job and job.due <= now:
                due.append(job)
                job = next(rest, None)
            self._send(due, now)
            while self._revocations and self._revocations[0][0] <= now:
                self._revoke(heapq.heappop(self._revocations)[1])
            time.sleep(0.05)

    def _send(self, jobs: list[Job], now: float) -> None:
        minsched = getattr(self._app, "minsched", None)
        while jobs:
            sent = {uuid.uuid4().hex: job for job in jobs[:10]}
            try:
                with minsched.batch() if minsched else nullcontext():
                    for task_id, job in sent.items():
                        self._apply(task_id, job)
            except OperationalError as exc:
                logger.info("Redis did not take a batch: %s", exc)
                self.refused += len(sent)
                time.sleep(0.1)
                continue  # the jobs are sent again with new ids
            self.accepted.update(sent)
            for task_id, job in sent.items():
                if job.kind.revoke:
                    heapq.heappush(self._revocations, (now + 1.0, task_id))
            jobs = jobs[10:]

    def _apply(self, task_id: str, job: Job) -> None:
        options = self._options(job)
        if hasattr(self._app, "minsched"):
            options["minsched"] = {"session_id": job.session}
        self._app.tasks[job.kind.task].apply_async(
            (job.takes,),
            task_id=task_id,
            countdown=job.countdown,
            **options,
        )

    def _options(self, job: Job) -> dict[str, Any]:
        return {"priority": job.priority}

    def _revoke(self, task_id: str) -> None:
        try:
            self._app.control.revoke(task_id)
        except OperationalError as exc:
            logger.info("a revocation was not sent: %s", exc)
