"""The node's side of its slots: which jobs it holds, asked for on receipt, freed at every ending.

No call to Redis is made in the worker's event loop: a thread makes them (:class:`Courier`). Its
answers go back into the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError

from celery_minsched import CompleteTaskRequest, MinimalSchedulerService, NodeMismatch, UnknownJob
from celery_minsched.core.paging import MOST_REVOKED, slices
from celery_minsched.core.printing import printable

from .outbox import Courier, is_passing

logger = logging.getLogger(__name__)

_TRIES, _TRY_AGAIN = 50, 0.02  # seconds
_LOOK_AGAIN = 0.02  # seconds


def by_age(job_ids: Iterable[str]) -> list[str]:
    """Jobs in the order in which they were sent: an id ends with a number that counts up."""
    return sorted(job_ids, key=lambda job_id: int((re.search(r"\d+$", job_id) or "0")[0]))


class LoopCalls:
    """Runs calls from other threads in the worker's event loop, at once: a pipe wakes the loop."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        os.set_blocking(self._writable, False)

    def register(self, hub: Any) -> None:
        """Listen in this hub; called again each time the worker has connected anew."""
        hub.add_reader(self._readable, self._run)

    def __call__(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # 64 kB of wake-ups are unread: it will wake
            os.write(self._writable, b".")

    def _run(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._readable, 4096)
        while self._calls:
            self._calls.popleft()()


@dataclass
class Hold:
    """A job that the node holds."""

    tag: str  # the delivery tag of its message
    claim: str  # names the node's claim to it
    term: int | None = None  # in which the node claimed it, as Redis says; see Pulse.term
    answer: tuple[str, dict[str, Any]] | None = None  # to the claim, where it is known already
    is_acknowledged: bool = False  # before it ends
    has_slot: bool = True  # a job that was revoked or has expired in line has none
    is_begun: bool = False  # it was given to the pool
    has_ended: bool = False  # or ends just now, and Redis does not know yet

    @property
    def stays(self) -> bool:
        """Does it stay at the node, when that gives up what has not begun?"""
        return self.is_begun or self.has_ended


class Slots:
    """The jobs that this node holds."""

    def __init__(
        self, scheduler: MinimalSchedulerService, node_id: str, term: Callable[[], int | None]
    ) -> None:
        self.held: dict[str, Hold] = {}
        self.in_loop = LoopCalls()
        self.term = term
        #: Are they all in ``held``? Not from the loss of the connection until what came over it is
        #: placed anew: its message may lie in Redis as this node's, and then it is not lost.
        self.are_known = True
        #: The worker was asked to stop, and starts no task any more.
        self.closing = False
        #: The worker is stuck, or consumes no more: jobs that have not begun go elsewhere.
        self.suspended = False
        self._scheduler = scheduler
        self.node_id = node_id
        #: A pool's thread that begins a job and the event loop that drops it exclude each other.
        self._beginning = threading.Lock()
        self._courier = Courier()
        self._placing: set[str] = set()  # jobs that the node has handed back, and Redis has not
        self._draining = False  # as asked for last
        #: Delivery tags, and their jobs, of messages that may be noted as acknowledged although
        #: their tasks have not begun.
        self._noted: dict[str, str] = {}

    def start(self) -> None:
        """Start the courier; after the worker has forked its children."""
        self._courier.start()

    def stop(self, patience: float = 10.0) -> None:
        """Wait until all endings are told, ``patience`` seconds at most."""
        self._courier.stop(patience)

    def claim(self, job_id: str, tag: str, answer: Callable[[str, dict[str, Any]], None]) -> None:
        """Ask whether to run a job, whose message has the delivery tag ``tag``.

        ``answer(verdict, place)`` comes in the event loop.
        """
        hold = self.held[job_id] = Hold(tag, uuid.uuid4().hex)

        def ask() -> None:
            if self.held.get(job_id) is not hold:  # the node has given the job up meanwhile
                return
            verdict, place = self._scheduler.claim_job(job_id, self.node_id, tag, hold.claim)
            hold.term, hold.has_slot = place.pop("term", None), verdict != "discard"
            self.in_loop(lambda: answer(verdict, {**place, "claim": hold.claim}))

        self._courier.put(f"claim job {job_id}", ask, give_up=partial(self.forget, job_id))

    def claim_in(
        self, pipe: Any, job_id: str, tag: str, load: bool = False
    ) -> Callable[[Any], None]:
        """The same in a pipeline of kombu's. The function returned takes what Redis answered: the
        hold has the answer then, or there is no hold where it was an error.
        """
        hold = self.held[job_id] = Hold(tag, uuid.uuid4().hex)
        self._scheduler.claim_in(pipe, job_id, self.node_id, tag, hold.claim, load)

        def on_answer(answer: Any) -> None:
            if isinstance(answer, Exception):
                self.forget(job_id)
                return
            verdict, place = self._scheduler.read_claim(answer)
            hold.term, hold.has_slot = place.pop("term", None), verdict != "discard"
            hold.answer = verdict, {**place, "claim": hold.claim}

        return on_answer

    def begin(self, job_id: str, claim: str) -> bool:
        """May the job begin, by this claim? Not if the node stops, is stuck, or may have been
        taken for dead since then.
        """
        with self._beginning:
            hold = self.held.get(job_id)
            if hold is None or hold.claim != claim:
                return False
            hold.is_begun = True  # first: another thread sets closing, and only then looks at this
            if self.closing or self.suspended or hold.term is None or hold.term != self.term():
                hold.is_begun = False
            return hold.is_begun

    def must_wait(self, job_id: str) -> bool:
        """Does the node not know yet whether the job may begin?"""
        return bool(job_id) and self.term() is None and not (self.closing or self.suspended)

    def await_term(self) -> None:
        """Wait until the node knows its term, in a thread of the pool: no other job can begin
        meanwhile, so the thread loses nothing, and jobs begin in order.
        """
        while self.term() is None and not self.closing:
            time.sleep(_LOOK_AGAIN)

    def acknowledge(self, job_id: str) -> bool:
        """Note in Redis that the message is acknowledged, before the task begins; may it begin?

        If the node is cut off just now, the note fails and another node runs the job. Blocks, as
        Celery's own acknowledgement does.
        """
        hold = self.held.get(job_id)
        if hold is None or hold.is_acknowledged:
            return hold is not None
        self._noted[hold.tag] = job_id  # first: Redis may take the note, and its answer be lost
        try:
            verdict = self._scheduler.acknowledge_job(self.node_id, hold.tag, hold.term or 0)
            del self._noted[hold.tag]
        except (RedisError, OperationalError) as exc:
            logger.warning("job %s cannot be noted as acknowledged, and waits: %s", job_id, exc)
            verdict = "unknown"
        with self._beginning:
            hold.is_acknowledged = hold.is_begun = verdict == "acknowledged"
        if verdict == "gone":
            self.hand_back([job_id])
        return hold.is_begun

    def take_back(self, job_id: str) -> None:
        """The job was given to the pool, but to none of its processes: it does not run here."""
        if hold := self.held.get(job_id):
            if hold.is_acknowledged:
                self._noted[hold.tag] = job_id
            hold.is_acknowledged = hold.is_begun = False

    def withdraw_notes(self) -> None:
        """Have others run the jobs that are noted as acknowledged and do not run here."""
        tags = [tag for tag, job_id in list(self._noted.items()) if not self.stays(job_id)]
        if tags:
            acked = self._scheduler.keys("node_acked", self.node_id)
            self._scheduler.redis.srem(acked, *tags)
            for tag in tags:
                del self._noted[tag]

    def cancel(self, job_id: str) -> None:
        """The job does not run here after all, and its message is left to others."""
        if hold := self.held.get(job_id):
            hold.is_begun = False

    def ends(self, job_id: str) -> Hold | None:
        """The job ends just now: from here on its message goes when its slot does."""
        if hold := self.held.get(job_id):
            hold.has_ended = True
        return hold

    def end(self, job_id: str, status: str, reason: str = "") -> None:
        """Free the job's slot. Never blocks; safe from any thread."""
        hold = self.ends(job_id)
        request = CompleteTaskRequest.model_validate(
            {
                "job_id": job_id,
                "node_id": self.node_id,
                "status": status,
                "reason": printable(reason[:200]),
                "delivery_tag": hold.tag if hold else "",
                "claim": hold.claim if hold else "",
            }
        )

        def tell() -> None:
            try:
                self._scheduler.complete_task(request)
            except (NodeMismatch, UnknownJob) as exc:
                logger.warning("%s", exc)
            self.forget(job_id)

        self._courier.put_ending(f"end job {job_id}", tell, hold is None or hold.has_slot)

    def hand_back(self, job_ids: Iterable[str]) -> None:
        """Have jobs placed anew, as soon as their messages are in their own lists; safe from any
        thread.
        A job that runs here stays.
        """
        self.place([job_id for job_id in by_age(set(job_ids)) if self._give_up(job_id)])

    def requeue(self, job_id: str) -> None:
        """Have a job placed anew whose task has ended and asks for its message again."""
        self.forget(job_id)
        self.place([job_id], requeued=True)

    def place(self, jobs: list[str], requeued: bool = False) -> None:
        """Have jobs placed anew that the node has forgotten; safe from any thread."""
        self._placing.update(jobs)
        self._put_place(jobs, requeued)

    def _put_place(
        self, jobs: list[str], requeued: bool, tries: int = _TRIES, pause: float = 0.0
    ) -> None:
        if jobs:
            self._courier.put(
                f"place {', '.join(jobs)}",
                partial(self._place, jobs, requeued, tries),
                give_up=partial(self._placing.difference_update, jobs),
                pause=pause,
            )

    def _place(self, jobs: list[str], requeued: bool, tries: int) -> None:
        try:
            answers = self._scheduler.place_jobs(jobs, self.node_id, requeued)
        except ResponseError as exc:
            if len(jobs) == 1 or is_passing(exc):
                raise
            for job_id in jobs:  # one of them stands in the way of the others
                self._put_place([job_id], requeued, tries)
            return
        pairs = zip(jobs, answers, strict=True)
        waiting = [job_id for job_id, answer in pairs if answer == "unchanged" and tries > 1]
        self._placing.difference_update(set(jobs) - set(waiting))
        # The message may be on its way: Celery puts it back in the event loop, a moment later.
        self._put_place(waiting, requeued, tries - 1, pause=_TRY_AGAIN)

    def revoke(self, task_ids: Sequence[str]) -> None:
        """Take revoked tasks out of the lines in which they wait, behind the endings of jobs."""
        for some in slices(task_ids, MOST_REVOKED):
            self._put_revoke(some)

    def _put_revoke(self, task_ids: Sequence[str]) -> None:
        name = f"revoke task {task_ids[0]}"
        if len(task_ids) > 1:
            name += f" and {len(task_ids) - 1} more"
        self._courier.put(name, partial(self._revoke, task_ids))

    def _revoke(self, task_ids: Sequence[str]) -> None:
        try:
            self._scheduler.revoke_tasks(task_ids, self.node_id)
        except ResponseError as exc:
            if len(task_ids) == 1 or is_passing(exc):
                raise
            for task_id in task_ids:  # one of them stands in the way of the others
                self._put_revoke([task_id])

    def carry(self, name: str, call: Callable[[], None]) -> None:
        """Make a call to Redis outside the event loop, again until Redis takes it."""
        self._courier.put(name, call)

    def drain(self, draining: bool) -> None:
        """Ask for no more jobs, or for jobs again."""
        self._draining = draining

        def drain() -> None:  # an earlier call may come after a later one
            self._scheduler.drain_node(self.node_id, self._draining)

        self._courier.put(f"{'drain' if draining else 'undrain'} node {self.node_id}", drain)

    def forget(self, job_id: str) -> None:
        """The job is not the node's."""
        self.held.pop(job_id, None)

    def hold_of(self, job_id: str, tag: str) -> Hold | None:
        """The hold of the job, if it is by the message with this tag."""
        hold = self.held.get(job_id)
        return hold if hold and hold.tag == tag else None

    def stays(self, job_id: str) -> bool:
        """Does the job stay at the node, when that gives up what has not begun?"""
        hold = self.held.get(job_id)
        return hold is not None and hold.stays

    def is_given_up(self, job_id: str, claim: str) -> bool:
        """Has the node given up this claim? The job's message comes again, or has come again."""
        hold = self.held.get(job_id)
        return hold is None or hold.claim != claim

    def know(self) -> None:
        """They are all in ``held`` again, once what was handed back is placed."""

        awaited = set(self._placing)

        def note() -> None:
            if awaited & self._placing:
                self._courier.put("learn which jobs it holds", note, pause=_TRY_AGAIN)
            else:
                self.are_known = True

        self._courier.put("learn which jobs it holds", note)

    def drop(self) -> frozenset[str]:
        """Forget what has not begun, as a worker that loses its connection does; those jobs."""
        self.are_known = False
        return frozenset(job_id for job_id in list(self.held) if self._give_up(job_id))

    def _give_up(self, job_id: str) -> bool:
        """Forget the job, unless it runs here; was it forgotten?"""
        with self._beginning:
            if is_given_up := not self.stays(job_id):
                self.forget(job_id)
        return is_given_up
