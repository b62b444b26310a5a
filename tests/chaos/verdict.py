"""The promises about each job, checked with the ledger, the result backend and the deaths."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from celery import states

from ..soak.ledger import Run
from ..soak.load import Job
from ..soak.verdict import MAX_RESCUES, Evidence, Promise, Result

#: Greatest difference between the time of a death and its effects, in seconds. A node that is
#: declared dead learns it later, and its jobs move before the event is written.
SLACK = 4.0


class Verdict:
    """The promises about each job.

    ``ends`` has the times at which each node died, was declared dead, or killed its tasks.
    ``killed_children`` has the times at which processes of its pool were killed.
    """

    def __init__(
        self,
        evidence: Evidence,
        ends: dict[str, list[float]],
        killed_children: dict[str, list[float]],
    ) -> None:
        self._ends = ends
        self._killed = killed_children
        self.ready = Promise("has a result")
        self.early = Promise("acknowledged early: began at most once")
        self.late = Promise("acknowledged late: ran to its end")
        self.again = Promise("acknowledged late: began again only if its node had died")
        self.lost = Promise("reported lost: acknowledged early, and its node had died")
        self.given_up = Promise(f"given up: {MAX_RESCUES} nodes had died while they ran it")
        self.other = Promise("any other result: agrees with the ledger")
        #: Number of late jobs that began again because their node had died.
        self.ran_again = 0
        for task in evidence:
            self._judge(*task)

    @property
    def promises(self) -> list[Promise]:
        """All promises, in the order of the table."""
        return [
            *(self.ready, self.early, self.late, self.again),
            *(self.lost, self.given_up, self.other),
        ]

    def _judge(self, task_id: str, job: Job, runs: list[Run], result: Result) -> None:
        self.ready.check(result.is_ready, task_id)
        if job.kind.is_late:
            self._judge_late(task_id, runs, result)
        else:
            attempts = [run.retries for run in runs]
            self.early.check(len(attempts) == len(set(attempts)), task_id)
        if result.is_lost:
            self.lost.check(not job.kind.is_late and self._may_be_lost(runs, result), task_id)
        elif result.is_given_up:
            died = sum(self._has_died(run, result.done) for run in runs)
            self.given_up.check(died >= MAX_RESCUES or job.kind.name == "poison", task_id)
        elif result.is_ready:
            self.other.check(self._is_explained(job, runs, result), task_id)

    def _judge_late(self, task_id: str, runs: list[Run], result: Result) -> None:
        other_end = result.is_given_up or result.outcome in ("revoked", "child killed")
        self.late.check(other_end or any(run.is_final for run in runs), task_id)
        messages: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            messages[run.message].append(run)
        for message_runs in messages.values():
            for run, following in pairwise(message_runs):
                if run.outcome == "requeued" and run.ended and run.ended <= following.began:
                    continue
                # A node may pass the task to a process just before it is stopped.
                died = (self._has_died(either, following.began) for either in (run, following))
                self.again.check(any(died), task_id)
                self.ran_again += 1

    def _is_explained(self, job: Job, runs: list[Run], result: Result) -> bool:
        if result.outcome == "revoked":
            return job.kind.revoke
        if result.outcome == "child killed":
            return any(self._is_near(self._killed[run.node_id], run, result.done) for run in runs)
        outcome = "done" if result.state == states.SUCCESS else "failed"
        return result.outcome == "ended" and any(run.outcome == outcome for run in runs)

    def _may_be_lost(self, runs: list[Run], result: Result) -> bool:
        if runs and runs[-1].outcome != "retry":
            return any(self._has_died(run, result.done) for run in runs)
        return any(end <= result.done for ends in self._ends.values() for end in ends)

    def _has_died(self, run: Run, until: float) -> bool:
        """True if the run's node died between the run's begin and ``until``."""
        return self._is_near(self._ends[run.node_id], run, until)

    @staticmethod
    def _is_near(times: list[float], run: Run, until: float) -> bool:
        return any(run.began - SLACK <= time <= until + SLACK for time in times)
