"""The promises, and the jobs that broke them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

import redis
from celery import states

from .app import RETRIES
from .fleet import Worker
from .ledger import Run
from .load import Job

MAX_RESCUES = 3  # the default
BEFORE = 4.0  # seconds in which a resumed node may begin tasks that it got before


@dataclass
class Promise:
    """A condition for each checked job, and the jobs that violate it."""

    text: str
    checked: int = 0
    broken: list[str] = field(default_factory=list)  # task ids or sentences

    def check(self, holds: bool, subject: str) -> None:
        """Count one more check. ``subject`` is a task id or a sentence."""
        self.checked += 1
        if not holds:
            self.broken.append(subject)


@dataclass(frozen=True)
class Result:
    """The result of a task in the result backend."""

    state: str = states.PENDING
    error: str = ""  # class name of the exception
    done: float = 0.0  # time at which it was stored, by the monotonic clock

    @property
    def is_ready(self) -> bool:
        """True if the caller gets a result or an error."""
        return self.state in states.READY_STATES

    @property
    def is_lost(self) -> bool:
        return self.error == "NodeLostError"

    @property
    def is_given_up(self) -> bool:
        return self.error == "MaxRescuesExceededError"

    @property
    def outcome(self) -> str:
        """The outcome for the caller: one of ``report.OUTCOMES``."""
        if not self.is_ready:
            return "no outcome"
        if self.state == states.SUCCESS or self.error == "ValueError":  # of the failing tasks
            return "ended"
        if self.state == states.REVOKED:
            return "revoked"
        outcomes = {
            "NodeLostError": "lost, reported",
            "MaxRescuesExceededError": "given up",
            "WorkerLostError": "child killed",
        }
        return outcomes.get(self.error, "other error")


def results(client: redis.Redis, task_ids: list[str]) -> dict[str, Result]:
    """The results of these tasks in the backend."""
    offset = time.time() - time.monotonic()
    results_by_task: dict[str, Result] = {}
    for first in range(0, len(task_ids), 1000):
        some = task_ids[first : first + 1000]
        stored = client.mget([f"celery-task-meta-{task_id}" for task_id in some])
        for task_id, text in zip(some, stored, strict=True):
            meta = json.loads(text) if text else {}
            value = meta.get("result")
            error = value.get("exc_type", "") if isinstance(value, dict) else ""
            date_done = meta.get("date_done")
            at = datetime.fromisoformat(date_done).timestamp() - offset if date_done else 0.0
            results_by_task[task_id] = Result(meta.get("status", states.PENDING), error, at)
    return results_by_task


@dataclass(frozen=True)
class Evidence:
    """The jobs of a run, with what the ledger and the result backend say about them."""

    jobs: dict[str, Job]
    runs: dict[str, list[Run]]
    results: dict[str, Result]

    def __iter__(self) -> Iterator[tuple[str, Job, list[Run], Result]]:
        for task_id, job in self.jobs.items():
            yield task_id, job, self.runs.get(task_id, []), self.results[task_id]


class Verdict:
    """The promises about each job."""

    def __init__(self, evidence: Evidence, workers: list[Worker]) -> None:
        self._absences = {worker.name: worker.absences for worker in workers}
        self.late = Promise("acknowledged late: ran to its end")
        self.early = Promise("acknowledged early: ended, or was reported")
        self.ready = Promise("each caller gets a result or an error")
        self.lost = Promise("reported lost or given up: its node died while it ran")
        self.retries = Promise("retried: ran all its retries")
        self.poison = Promise(f"poison: given up after {MAX_RESCUES} nodes")
        self.revoked = Promise("revoked: ended, or never ran and was reported as revoked")
        self.once = Promise("no message began twice while its node lived")
        for task in evidence:
            self._judge(*task)

    @property
    def promises(self) -> list[Promise]:
        """All promises, in the order of the table."""
        return [
            *(self.late, self.early, self.ready, self.lost),
            *(self.retries, self.poison, self.revoked, self.once),
        ]

    def _judge(self, task_id: str, job: Job, runs: list[Run], result: Result) -> None:
        ended = any(run.is_final for run in runs)
        self.ready.check(result.is_ready, task_id)
        self._judge_once(task_id, runs)
        if result.is_lost or (result.is_given_up and job.kind.name != "poison"):
            self.lost.check(self._may_be_lost(runs, result), task_id)
        if job.kind.name == "poison":
            self.poison.check(result.is_given_up and len(runs) <= MAX_RESCUES, task_id)
        elif job.kind.revoke:
            # Redis may be killed before a worker gets the revocation. The task then ends.
            self.revoked.check(ended or (not runs and result.state == states.REVOKED), task_id)
        elif job.kind.is_late:
            # A job is given up if too many nodes died while they ran it.
            self.late.check((ended and not result.is_lost) or result.is_given_up, task_id)
        else:
            self.early.check(ended or result.is_lost or result.is_given_up, task_id)
        if job.kind.name.startswith("retrying") and ended:
            self.retries.check({run.retries for run in runs} == set(range(RETRIES + 1)), task_id)

    def _judge_once(self, task_id: str, runs: list[Run]) -> None:
        last: dict[str, Run] = {}
        for run in runs:
            earlier = last.get(run.message)
            if earlier:
                # A node may pass the task to a process just before it is stopped.
                was_absent = (self._was_absent(either, run.began) for either in (earlier, run))
                self.once.check(any(was_absent), task_id)
            last[run.message] = run

    def _may_be_lost(self, runs: list[Run], result: Result) -> bool:
        """An early task is acknowledged before it writes to the ledger."""
        if runs and runs[-1].outcome != "retry":
            return any(self._was_absent(run, result.done) for run in runs)
        absences = chain.from_iterable(self._absences.values())
        return any(absence.since <= result.done for absence in absences)

    def _was_absent(self, run: Run, until: float) -> bool:
        """True if the run's node was absent from shortly before the run's begin to ``until``."""
        return any(
            absence.since <= until and run.began - BEFORE <= absence.until
            for absence in self._absences[run.node_id]
        )
