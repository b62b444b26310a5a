"""What the consumer does with a job's message when the scheduler answers the claim."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.worker import state

from celery_minsched.core.keys import queue_name
from celery_minsched.plugin.header import HEADER

from .node import Node

logger = logging.getLogger(__name__)

_PAUSE = 0.5  # seconds until a claim is made again


class ClaimedMessage:
    """A job's message, received over the consumer's connection. ``begin`` gives it to Celery."""

    def __init__(
        self, consumer: Any, job_id: str, message: Any, begin: Callable[[Any], None]
    ) -> None:
        self._consumer = consumer
        self._node: Node = consumer.node
        self._job_id = job_id
        self._message = message
        self._begin = begin
        self._connection = consumer.connections

    def claim(self) -> None:
        """Claim the job. Does not block."""
        self._node.claims.put(self._job_id, self._message.delivery_tag, self.on_answer)

    def on_answer(self, verdict: str, place: dict[str, Any]) -> None:
        """Act on the verdict of ``claim_job``, in the event loop."""
        job_id, node, slots = self._job_id, self._node, self._node.slots
        logger.debug(
            "job %s came to this node: %s",
            *(job_id, verdict),
            extra={"job_id": job_id, "node_id": node.node_id, "verdict": verdict},
        )
        if slots.closing:
            node.pulse.nudge()  # the message is handed back
        elif self._connection != self._consumer.connections:
            pass  # the message was put back
        elif slots.is_given_up(job_id, place["claim"]):
            pass  # the same, or the job has come again, perhaps with the same delivery tag
        elif verdict in ("run", "discard"):
            self._run(verdict, place)
        elif verdict == "hand_back":
            logger.warning("job %s has lost its slot at this node and is handed back", job_id)
            self._message.reject_log_error(logger, self._consumer.connection_errors, requeue=True)
            slots.hand_back([job_id])
        elif verdict == "full":
            self._consumer.timer.call_after(_PAUSE, self._claim_again, (place["claim"],))
        else:
            logger.warning("job %s has ended or is at another node: its message is dropped", job_id)
            slots.forget(job_id)
            self.drop()

    def drop(self) -> None:
        """Acknowledge the message, and run nothing."""
        self._message.ack_log_error(logger, self._consumer.connection_errors)

    def _run(self, verdict: str, place: dict[str, Any]) -> None:
        message, node_id = self._message, self._node.node_id
        # A job that waited was sent before its node was chosen. A retry goes to the queue that
        # delivery_info names, and for the router a node's queue is no choice of the caller's.
        message.headers[HEADER].update(node_id=node_id, **place)
        if (priority := message.headers[HEADER].get("priority")) is not None:
            message.properties["priority"] = priority
        message.delivery_info["routing_key"] = queue_name(node_id)
        if verdict == "discard":  # this worker may not have got the revocation
            state.revoked.add(message.headers["id"])
        try:
            self._begin(message)
        except (KeyError, TypeError, ValueError) as exc:
            # celery 5.7 expects a body of three parts. Otherwise its worker ends.
            self._consumer.on_invalid_task(message.body, message, exc)

    def _claim_again(self, claim: str) -> None:
        if not self._node.slots.is_given_up(self._job_id, claim):
            self.claim()
