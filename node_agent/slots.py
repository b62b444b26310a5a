"""The jobs that this node holds: claimed on receipt, freed at every ending.

The worker's event loop never calls Redis here. The outbox makes the calls in its thread, and the
answers go back into the event loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celery_minsched import MinimalSchedulerService
from celery_minsched.core.models import NextJob

from .held_job import HeldJob
from .loop_calls import LoopCalls
from .outbox import Outbox
from .placing import Placing, by_age

logger = logging.getLogger(__name__)

_PAUSE = 0.02  # seconds


class Slots:
    """The jobs that this node holds."""

    def __init__(
        self, scheduler: MinimalSchedulerService, node_id: str, term: Callable[[], int | None]
    ) -> None:
        self.held: dict[str, HeldJob] = {}
        #: Jobs that had not begun when the worker's connection closed or failed, until they are
        #: placed again.
        self.dropped: set[str] = set()
        self.in_loop = LoopCalls()
        self.term = term
        #: Does ``held`` have all the node's jobs? Not between the loss of the connection and the
        #: moment at which the jobs that came over it are placed: a message in Redis may still be
        #: this node's, and then its job is not lost.
        self.is_synced = True
        #: The worker was asked to stop, and starts no more tasks.
        self.closing = False
        #: The worker is stuck, or does not consume: jobs that have not begun go to other nodes.
        self.suspended = False
        self.node_id = node_id
        self.outbox = Outbox()
        self._scheduler = scheduler
        #: Jobs that the node forgot since it asked Redis last for its next job.
        self.forgotten: set[str] = set()
        #: Held while a thread of the pool begins a job or the event loop forgets it.
        self._beginning = threading.Lock()
        self._placing = Placing(scheduler, node_id, self.outbox)
        self._draining = False  # as requested last
        #: Delivery tags and jobs of messages that Redis may have as acknowledged although their
        #: tasks have not begun.
        self._acknowledged_early: dict[str, str] = {}

    def start(self) -> None:
        """Start the outbox, after the worker has forked its children."""
        self.outbox.start()

    def stop(self, patience: float = 10.0) -> None:
        """Wait until all endings are reported, ``patience`` seconds at most."""
        self.outbox.stop(patience)

    @property
    def may_take_jobs(self) -> bool:
        """May the node take a job now? Not if its worker stops, is stuck or connects again, or if
        Redis may have declared the node dead.
        """
        may_not = self.closing or self.suspended or not self.is_synced
        return not may_not and self.term() is not None

    def hold_next(self, job: NextJob, claim: str) -> bool:
        """Hold a job that Redis has given to this node. False if another thread has given the job
        up since Redis answered.
        """
        job_id = job.job_id
        place = {"pool": job.pool, "chosen_by": job.chosen_by, "waited_ms": job.waited_ms}
        answer = "run", {**place, "claim": claim}
        with self._beginning:
            held = self.held.get(job_id)
            if held and held.stays:  # Redis declared the node dead, and the job came back to it
                held.tag, held.claim, held.term = claim, claim, job.term
            else:
                self.held[job_id] = HeldJob(claim, claim, term=job.term, answer=answer)
        if job_id in self.forgotten:
            self.forget(job_id)
            return False
        return True

    def begin(self, job_id: str, claim: str) -> bool:
        """May the job begin, by this claim?

        Not if the node stops or is stuck, or Redis may have declared it dead since the claim.
        """
        with self._beginning:
            held = self.held.get(job_id)
            if held is None or held.claim != claim:
                return False
            held.is_begun = True  # first: another thread sets closing, and reads this after that
            if self.closing or self.suspended or held.term is None or held.term != self.term():
                held.is_begun = False
            return held.is_begun

    def must_await_term(self, job_id: str) -> bool:
        """Must the job wait until the node knows its term?"""
        return bool(job_id) and self.term() is None and not (self.closing or self.suspended)

    def await_term(self) -> None:
        """Wait until the node knows its term, in a thread of the pool.

        No other job can begin meanwhile, so the thread loses nothing, and jobs begin in order.
        """
        while self.term() is None and not self.closing:
            time.sleep(_PAUSE)

    def acknowledge(self, job_id: str) -> bool:
        """Note in Redis that the message is acknowledged, before the task begins. May it begin?

        If Redis has declared the node dead, the note fails and another node runs the job. Blocks,
        as Celery's own acknowledgement does.
        """
        held = self.held.get(job_id)
        if held is None or held.is_acknowledged:
            return held is not None
        # First: Redis may take the note, and its answer may be lost.
        self._acknowledged_early[held.tag] = job_id
        try:
            verdict = self._scheduler.acknowledge_job(self.node_id, held.tag, held.term or 0)
            del self._acknowledged_early[held.tag]
        except (RedisError, OperationalError) as exc:
            logger.warning("job %s cannot be noted as acknowledged, and waits: %s", job_id, exc)
            verdict = "unknown"
        with self._beginning:
            held.is_acknowledged = held.is_begun = verdict == "acknowledged"
        if verdict == "gone":
            self.hand_back([job_id])
        return held.is_begun

    def mark_not_started(self, job_id: str) -> None:
        """Mark a job that the pool had, and that no process of the pool got."""
        if held := self.held.get(job_id):
            if held.is_acknowledged:
                self._acknowledged_early[held.tag] = job_id
            held.is_acknowledged = held.is_begun = False

    def mark_cancelled(self, job_id: str) -> None:
        """Mark a job whose task was cancelled: another node runs it."""
        if held := self.held.get(job_id):
            held.is_begun = False

    def mark_ending(self, job_id: str) -> HeldJob | None:
        """Mark a job that ends now: from here on its message goes together with its slot."""
        if held := self.held.get(job_id):
            held.has_ended = True
        return held

    def withdraw_acknowledgements(self) -> None:
        """Have other nodes run the jobs that did not begin and may be noted as acknowledged."""
        early = list(self._acknowledged_early.items())
        tags = [tag for tag, job_id in early if not self.stays(job_id)]
        if tags:
            acked = self._scheduler.keys("node_acked", self.node_id)
            self._scheduler.redis.srem(acked, *tags)
            for tag in tags:
                del self._acknowledged_early[tag]

    def hand_back(self, job_ids: Iterable[str]) -> None:
        """Have jobs placed again as soon as their messages are in their own lists. A job that runs
        here stays. Safe from any thread.
        """
        self._placing.place([one for one in by_age(set(job_ids)) if self._forget_unstarted(one)])

    def requeue(self, job_id: str) -> None:
        """Have a job placed again whose task has ended and asks for its message again."""
        self.forget(job_id)
        self._placing.place([job_id], requeued=True)

    def place(self, job_ids: list[str]) -> None:
        """Have jobs placed again that the node holds no longer. Safe from any thread."""
        self._placing.place(job_ids)

    def drain(self, draining: bool) -> None:
        """Ask the scheduler for no more jobs, or for jobs again."""
        self._draining = draining

        def drain() -> None:  # an earlier call may be made after a later one
            self._scheduler.drain_node(self.node_id, self._draining)

        self.outbox.put(f"{'drain' if draining else 'undrain'} node {self.node_id}", drain)

    def forget(self, job_id: str) -> None:
        """The node does not hold the job any longer."""
        self.forgotten.add(job_id)  # first: hold_next reads it last
        self.held.pop(job_id, None)
        self.dropped.discard(job_id)

    def held_by_tag(self, job_id: str, tag: str) -> HeldJob | None:
        """The held job, if the node holds it by the message with this delivery tag."""
        held = self.held.get(job_id)
        return held if held and held.tag == tag else None

    def stays(self, job_id: str) -> bool:
        """Does the job stay at the node when the node hands back the jobs that have not begun?"""
        held = self.held.get(job_id)
        return held is not None and held.stays

    def unstarted(self) -> set[str]:
        """The jobs that the node holds or has dropped, and has not started."""
        held = self.held.copy()
        unstarted = {job_id for job_id, job in held.items() if not job.stays}
        return unstarted | (self.dropped - held.keys())

    def is_given_up(self, job_id: str, claim: str) -> bool:
        """Has the node given up this claim? The job's message comes again, or has come again."""
        held = self.held.get(job_id)
        return held is None or held.claim != claim

    def mark_synced(self) -> None:
        """Mark ``held`` as complete, once the jobs that were handed back are placed."""
        awaited = set(self._placing.unplaced)

        def mark() -> None:
            if awaited & self._placing.unplaced:
                self.outbox.put("learn which jobs it holds", mark, pause=_PAUSE)
            else:
                self.is_synced = True

        self.outbox.put("learn which jobs it holds", mark)

    def drop_unstarted(self) -> None:
        """Drop the jobs that have not begun, as the worker does when its connection closes."""
        self.is_synced = False
        for job_id in list(self.held):
            if self._forget_unstarted(job_id):
                self.dropped.add(job_id)

    def drop(self, job_id: str) -> None:
        """Drop a job whose claim got no answer: Redis may have noted its message."""
        self.forget(job_id)
        self.dropped.add(job_id)

    def _forget_unstarted(self, job_id: str) -> bool:
        """Forget the job, unless it runs here. Returns whether it was forgotten."""
        with self._beginning:
            if is_forgotten := not self.stays(job_id):
                self.forget(job_id)
        return is_forgotten
