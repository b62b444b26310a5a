"""Reports the endings of jobs. The answer to an ending brings the node's next job.

So a node needs one round trip between two jobs. If the answer is lost, the outbox asks again with
the same claim, and Redis answers with the same job.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from celery_minsched import CompleteTaskRequest, MinimalSchedulerService, NodeMismatch, UnknownJob
from celery_minsched.core.models import NextJob
from celery_minsched.core.printing import printable

from .slots import Slots

logger = logging.getLogger(__name__)


@dataclass
class _Ending:
    """The end of a job, until Redis has it."""

    request: CompleteTaskRequest
    next_claim: str = ""  # the same in each attempt, once Redis may have got it


class Endings:
    """Reports the endings of jobs through the outbox."""

    #: Gives the message of a held job to the worker, in the event loop: job id, claim, message.
    #: ``None`` if the worker takes each message from its queue.
    deliver: Callable[[str, str, bytes], None] | None = None

    def __init__(self, scheduler: MinimalSchedulerService, slots: Slots) -> None:
        self._scheduler = scheduler
        self._slots = slots

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
        complete = partial(self._complete, _Ending(request))
        self._slots.outbox.put_ending(f"end job {job_id}", complete, held is None or held.has_slot)

    def _complete(self, ending: _Ending) -> None:
        """End the job, and hold the job that the answer brings."""
        slots, job_id, deliver = self._slots, ending.request.job_id, self.deliver
        if not ending.next_claim and deliver and slots.may_take_jobs:
            ending.next_claim = uuid.uuid4().hex
        next_job = None
        try:
            next_job = self._ask(ending)
        except (NodeMismatch, UnknownJob) as exc:
            logger.warning("%s", exc)
        slots.forget(job_id)
        if next_job and deliver:
            slots.in_loop(partial(deliver, next_job.job_id, ending.next_claim, next_job.message))

    def _ask(self, ending: _Ending) -> NextJob | None:
        """Ask again if the node has given the next job up before it had the answer. Then Redis
        knows whether the node still has that job.
        """
        slots = self._slots
        while True:
            held = slots.held.get(ending.request.job_id)
            request = ending.request.model_copy(
                update={
                    "delivery_tag": held.tag if held else "",
                    "claim": held.claim if held else "",
                    "next_claim": ending.next_claim,
                }
            )
            slots.forgotten.clear()
            job = self._scheduler.complete_task(request).next_job
            if job is None or slots.hold_next(job, ending.next_claim):
                return job
