"""Reports the endings of jobs. The answer to an ending brings the node's next job.

So a node needs one round trip between two jobs. If the answer is lost, the outbox asks again with
the same claim, and Redis answers with the same job.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from celery_minsched import CompleteTaskRequest, MinimalSchedulerService, NodeMismatch, UnknownJob
from celery_minsched.core.printing import printable

from .slots import Slots

logger = logging.getLogger(__name__)


_MOST_ENDINGS = 8  # in one round trip; each answer may bring a large message


@dataclass(eq=False)
class _Ending:
    """The end of a job, until Redis has it."""

    request: CompleteTaskRequest
    next_claim: str = ""  # the same in each attempt, once Redis may have got it


class Endings:
    """Reports the endings of jobs through the outbox, all that wait in one round trip."""

    #: Gives the message of a held job to the worker, in the event loop: job id, claim, message.
    #: ``None`` if the worker takes each message from its queue.
    deliver: Callable[[str, str, bytes], None] | None = None

    def __init__(self, scheduler: MinimalSchedulerService, slots: Slots) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._waiting: deque[_Ending] = deque()

    def report(self, job_id: str, status: str, reason: str = "") -> None:
        """Free the job's slot. Never blocks; safe from any thread."""
        held = self._slots.mark_ending(job_id)
        request = CompleteTaskRequest.model_validate(
            {
                "job_id": job_id,
                "node_id": self._slots.node_id,
                "status": status,
                "reason": printable(reason[:200]),
            }
        )
        ending = _Ending(request)
        if held is None or held.has_slot:
            self._waiting.append(ending)
            self._put([])
        else:
            self._put([ending], frees_slot=False)

    def _put(self, endings: list[_Ending], frees_slot: bool = True) -> None:
        """Put a call into the outbox. Without endings, the call takes those that wait then."""
        name = f"end job {endings[0].request.job_id}" if endings else "end jobs"
        self._slots.outbox.put_ending(name, partial(self._complete, endings), frees_slot)

    def _complete(self, endings: list[_Ending]) -> None:
        """End jobs. ``endings`` keeps those that Redis does not have yet, for the next attempt."""
        if not endings:
            while self._waiting and len(endings) < _MOST_ENDINGS:
                endings.append(self._waiting.popleft())
        for ending in endings:
            if not ending.next_claim and self.deliver and self._slots.may_take_jobs:
                ending.next_claim = uuid.uuid4().hex
        are_several = len(endings) > 1
        while endings:
            for ending, error in self._ask(endings):
                if not are_several:
                    raise error
                endings.remove(ending)  # it must not hold up the others
                self._put([ending])

    def _ask(self, endings: list[_Ending]) -> list[tuple[_Ending, Exception]]:
        """End jobs, and hold the jobs that the answers bring. Returns the errors.

        An ending stays in ``endings`` if the node has given the next job up before it had the
        answer. Redis knows whether the node still has that job. It also stays if the answer to an
        earlier ending brought the ended job itself, which Redis had moved away from this node.
        """
        slots, brought, errors = self._slots, list[partial[None]](), []
        slots.forgotten.clear()
        requests = [self._request(ending) for ending in endings]
        answers = self._scheduler.complete_tasks(requests)
        for ending, request, answer in zip(endings.copy(), requests, answers, strict=True):
            if isinstance(answer, NodeMismatch | UnknownJob):
                logger.warning("%s", answer)
            elif isinstance(answer, Exception):
                errors.append((ending, answer))
                continue
            elif job := answer.next_job:
                if not slots.hold_next(job, ending.next_claim):
                    continue
                if self.deliver:
                    brought.append(
                        partial(self.deliver, job.job_id, ending.next_claim, job.message)
                    )
            held = slots.held.get(ending.request.job_id)
            if held and held.has_ended and held.claim != request.claim:
                continue
            endings.remove(ending)
            slots.forget(ending.request.job_id)
        for deliver in brought:
            slots.in_loop(deliver)
        return errors

    def _request(self, ending: _Ending) -> CompleteTaskRequest:
        held = self._slots.held.get(ending.request.job_id)
        return ending.request.model_copy(
            update={
                "delivery_tag": held.tag if held else "",
                "claim": held.claim if held else "",
                "next_claim": ending.next_claim,
            }
        )
