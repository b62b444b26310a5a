"""Claims jobs: asks the scheduler whether this node runs a job whose message it has received."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from celery_minsched import MinimalSchedulerService

from .held_job import HeldJob
from .slots import Slots

logger = logging.getLogger(__name__)


class Claims:
    """Claims jobs for a node, in the outbox or in a pipeline of kombu's."""

    def __init__(self, scheduler: MinimalSchedulerService, slots: Slots) -> None:
        self._scheduler = scheduler
        self._slots = slots

    def put(self, job_id: str, tag: str, answer: Callable[[str, dict[str, Any]], None]) -> None:
        """Claim the job whose message has the delivery tag ``tag``. Never blocks.

        ``answer(verdict, place)`` is called in the event loop.
        """
        slots, held = self._slots, self._hold(job_id, tag)

        def ask() -> None:
            if slots.held.get(job_id) is not held:  # the node has given the job up meanwhile
                return
            claim = self._scheduler.claim_job(job_id, slots.node_id, tag, held.claim)
            verdict, place = _mark(held, *claim)
            slots.in_loop(lambda: answer(verdict, place))

        slots.outbox.put(f"claim job {job_id}", ask, give_up=partial(slots.forget, job_id))

    def claim_taken(self, client: Any, job_id: str, tag: str) -> bool:
        """Claim the job of the message in the node's list of taken messages, with kombu's client.

        Redis notes the message as unacknowledged. The held job has the verdict then. False if the
        list does not have the message, or Redis refuses.
        """
        slots, held = self._slots, self._hold(job_id, tag)
        claim = partial(
            self._scheduler.claim_in, client, job_id, slots.node_id, tag, held.claim, taken=True
        )
        try:
            try:
                answer = claim(load=False)
            except NoScriptError:
                answer = claim(load=True)
            verdict, place = self._scheduler.read_claim(answer)
        except ResponseError as exc:
            logger.debug("Redis does not claim the taken message of job %s: %s", job_id, exc)
            verdict, place = "not_taken", {}
        except BaseException:
            slots.drop(job_id)
            raise
        if verdict == "not_taken":
            slots.forget(job_id)
            return False
        held.answer = _mark(held, verdict, place)
        return True

    def add_to(self, pipe: Any, job_id: str, tag: str, load: bool = False) -> Callable[[Any], None]:
        """Add the claim to a pipeline. Returns a function that takes Redis' answer.

        The held job has the verdict then. If the answer is an error, the node does not hold the
        job. With ``load`` the pipeline loads the script too.
        """
        slots, held = self._slots, self._hold(job_id, tag)
        self._scheduler.claim_in(pipe, job_id, slots.node_id, tag, held.claim, load)

        def on_answer(answer: Any) -> None:
            if isinstance(answer, Exception):
                slots.forget(job_id)
            else:
                held.answer = _mark(held, *self._scheduler.read_claim(answer))

        return on_answer

    def _hold(self, job_id: str, tag: str) -> HeldJob:
        held = self._slots.held[job_id] = HeldJob(tag, uuid.uuid4().hex)
        return held


def _mark(held: HeldJob, verdict: str, place: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Note the answer to the claim. Returns the verdict, and the place with the claim."""
    held.term, held.has_slot = place.pop("term", None), verdict != "discard"
    return verdict, {**place, "claim": held.claim}
