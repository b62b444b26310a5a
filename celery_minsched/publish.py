"""Dispatches a task where Celery has its message in hand, and publishes it to the node's queue.

``Celery(amqp=...)`` is Celery's place for an AMQP class of one's own. Its ``send_task_message``
has the finished message (id, eta), decides the destination, and sees a publish fail.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP
from kombu import Queue
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time
from kombu.utils.objects import cached_property
from redis.exceptions import RedisError

from . import demand
from .keys import queue_name
from .models import DispatchResponse
from .router import HEADER, TO_BE_DISPATCHED, MinSchedRouter

if TYPE_CHECKING:
    from .plugin import MinSched

logger = logging.getLogger(__name__)


class SchedulingAMQP(AMQP):
    """Celery's AMQP, with the scheduler's router first and its dispatch before the publish."""

    def Router(self, *args: Any, **kwargs: Any) -> Any:
        router = super().Router(*args, **kwargs)
        router.routes = [MinSchedRouter(self._plugin), *router.routes]
        return router

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        send = super().send_task_message

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            if getattr(options.get("queue"), "name", None) != TO_BE_DISPATCHED.name:
                return send(producer, name, message, **options)
            placed = self._dispatch(name, message.headers["id"], options)
            try:
                return send(producer, name, message, **_to_node(options, placed))
            except BaseException:
                self._release(placed.job_id)
                raise

        return send_task_message

    @property
    def _plugin(self) -> MinSched:
        from .plugin import plugin_of

        return plugin_of(self.app)

    def _dispatch(self, name: str, task_id: str, options: Mapping[str, Any]) -> DispatchResponse:
        """Take a slot, trying again as the publish itself would.

        Raises the :class:`SchedulerError` of the dispatch, or kombu's ``OperationalError``.
        """
        asked = demand.parse(options["headers"][HEADER]["demand"])
        request = asked.request(task_id, name, token=uuid.uuid4().hex)
        conf = self.app.conf
        retry = options.get("retry")
        policy = {**conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}
        max_retries = policy.get("max_retries", 3)
        try:
            placed: DispatchResponse = retry_over_time(
                lambda: self._plugin.scheduler.dispatch_task(request),
                (RedisError, OperationalError),
                # None means for ever to retry_over_time, and to Celery's publish.
                max_retries=max_retries
                if (conf.task_publish_retry if retry is None else retry)
                else 0,
                interval_start=policy.get("interval_start", 0),
                interval_step=policy.get("interval_step", 0.2),
                interval_max=policy.get("interval_max", 0.2),
            )
        except RedisError as exc:
            raise OperationalError(str(exc)) from exc
        logger.debug(
            "task %s [%s] is job %s at node %s (%s)",
            *(name, task_id, placed.job_id, placed.node_id, placed.chosen_by),
        )
        return placed

    def _release(self, job_id: str) -> None:
        try:
            self._plugin.scheduler.release_job(job_id)
        except RedisError as exc:  # the slot's lease runs out by itself
            logger.warning(
                "job %s was not sent, and its slot is held till it lapses: %s", job_id, exc
            )


def _to_node(options: Mapping[str, Any], placed: DispatchResponse) -> dict[str, Any]:
    """The publish options for the node's queue, which is neither declared nor remembered here."""
    header = {
        **options["headers"][HEADER],
        "job_id": placed.job_id,
        "node_id": placed.node_id,
        "pool": placed.pool,
    }
    return {
        **options,
        "queue": Queue(queue_name(placed.node_id), no_declare=True),
        "declare": [],
        "headers": {**options["headers"], HEADER: header},
    }
