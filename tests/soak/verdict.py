"""What was promised, and which jobs broke it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import datetime

import redis
from celery import states

from .app import RETRIES
from .fleet import Worker
from .ledger import Run, by_task
from .load import Job

MAX_RESCUES = 3  # the default
BEFORE = 4.0  # seconds: a node that was stopped runs first what it has in hand


@dataclass
class Promise:
    """Something that must hold for each of some jobs, and those for which it does not."""

    text: str
    looked_at: int = 0
    broken: list[str] = field(default_factory=list)  # task ids, or sentences

    def check(self, holds: bool, what: str) -> None:
        """It is looked at once more."""
        self.looked_at += 1
        if not holds:
            self.broken.append(what)


@dataclass(frozen=True)
class Result:
    """What the result backend says of a task."""

    state: str = states.PENDING
    error: str = ""  # class name of the exception
    done: float = 0.0  # when it was stored, by the monotonic clock

    @property
    def is_ready(self) -> bool:
        """Has whoever waits been told?"""
        return self.state in states.READY_STATES

    @property
    def is_lost(self) -> bool:
        return self.error == "NodeLostError"

    @property
    def is_given_up(self) -> bool:
        return self.error == "MaxRescuesExceededError"

    @property
    def outcome(self) -> str:
        """The one outcome that the caller got."""
        if not self.is_ready:
            return "silent"
        if self.state == states.SUCCESS or self.error == "ValueError":  # the failing tasks' own
            return "ended"
        if self.state == states.REVOKED:
            return "revoked"
        told = {
            "NodeLostError": "lost, told",
            "MaxRescuesExceededError": "given up",
            "WorkerLostError": "child killed",
        }
        return told.get(self.error, "other error")


def results(client: redis.Redis, task_ids: list[str]) -> dict[str, Result]:
    """What the backend has of these tasks."""
    offset = time.time() - time.monotonic()
    found: dict[str, Result] = {}
    for first in range(0, len(task_ids), 1000):
        some = task_ids[first : first + 1000]
        stored = client.mget([f"celery-task-meta-{task_id}" for task_id in some])
        for task_id, text in zip(some, stored, strict=True):
            meta = json.loads(text) if text else {}
            value = meta.get("result")
            error = value.get("exc_type", "") if isinstance(value, dict) else ""
            done = meta.get("date_done")
            at = datetime.fromisoformat(done).timestamp() - offset if done else 0.0
            found[task_id] = Result(meta.get("status", states.PENDING), error, at)
    return found


class Verdict:
    """The promises about single jobs, judged by the ledger and the result backend."""

    def __init__(
        self,
        jobs: dict[str, Job],
        runs: list[Run],
        results: dict[str, Result],
        workers: list[Worker],
    ) -> None:
        self.jobs = jobs
        self.runs = by_task(runs)
        self.results = results
        self._absences = {worker.name: worker.absences for worker in workers}
        self.late = Promise("acknowledged late: ran to its end")
        self.early = Promise("acknowledged early: ended, or was reported")
        self.told = Promise("whoever waits for a result gets one")
        self.falsely = Promise("reported lost, or given up: its node had died under it")
        self.retries = Promise("retried: has all its retries")
        self.poison = Promise(f"poison: stopped after {MAX_RESCUES} nodes")
        self.revoked = Promise("revoked: never ran, and said so; or ended")
        self.once = Promise("no message began twice while its node lived")
        for task_id, job in jobs.items():
            self._judge(task_id, job)

    @property
    def promises(self) -> list[Promise]:
        """All of them."""
        return [
            *(self.late, self.early, self.told, self.falsely),
            *(self.retries, self.poison, self.revoked, self.once),
        ]

    def _judge(self, task_id: str, job: Job) -> None:
        runs, result = self.runs.get(task_id, []), self.results[task_id]
        ended = any(run.is_final for run in runs)
        self.told.check(result.is_ready, task_id)
        self._judge_once(task_id, runs)
        if result.is_lost or (result.is_given_up and job.kind.name != "poison"):
            self.falsely.check(self._may_be_lost(runs, result), task_id)
        if job.kind.name == "poison":
            self.poison.check(result.is_given_up and len(runs) <= MAX_RESCUES, task_id)
        elif job.kind.revoke:
            # A broadcast that no worker heard, since Redis was killed, revokes nothing.
            self.revoked.check(ended or (not runs and result.state == states.REVOKED), task_id)
        elif job.kind.is_late:
            # One under which too many nodes died is given up by the rule for poison.
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
                # A node may have given it to a process just before it was stopped.
                was_absent = (self._was_absent(one, run.began) for one in (earlier, run))
                self.once.check(any(was_absent), task_id)
            last[run.message] = run

    def _may_be_lost(self, runs: list[Run], result: Result) -> bool:
        """An early one may be lost before it writes in the ledger: it is acknowledged first."""
        if runs and runs[-1].outcome != "retry":
            return any(self._was_absent(run, result.done) for run in runs)
        absences = (absence for of_node in self._absences.values() for absence in of_node)
        return any(absence.since <= result.done for absence in absences)

    def _was_absent(self, run: Run, until: float) -> bool:
        """Was the run's node away, or taken for dead, just before its begin or since?"""
        return any(
            absence.since <= until and run.began - BEFORE <= absence.until
            for absence in self._absences[run.node_id]
        )
