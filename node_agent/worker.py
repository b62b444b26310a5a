"""Builds the Celery worker of a node."""

from __future__ import annotations

from typing import Any

import redis
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import TaskRevokedError
from kombu import Exchange, Queue

from celery_minsched import RegisterNodeRequest
from celery_minsched.core.keys import queue_name
from celery_minsched.plugin import remote, tracing  # noqa: F401 - remote registers its commands
from celery_minsched.plugin.connection import result_options
from celery_minsched.plugin.header import HEADER
from celery_minsched.plugin.messages import job_id_of
from celery_minsched.plugin.plugin import MinSched

from . import revokes  # noqa: F401 - registers its commands
from .consumer import NodeConsumer
from .kombu_keys import transport_options
from .log_text import follow_logging
from .node import Node
from .startup import log_parser

_PAUSE = 0.05  # seconds until a job that waits for the node's term is looked at again


class NodeWorker(Worker):
    """Celery's worker. It tells the node as soon as it stops, for any reason.

    ``worker_shutting_down`` does this for a warm shutdown only (celery 5.7). In a cold shutdown the
    signal comes after the time that a soft shutdown gives. From a pool of threads, which cannot be
    cancelled, it does not come at all. It does not come either if an error ends the worker.
    """

    def wait_for_soft_shutdown(self) -> None:  # the first step of a cold shutdown
        self.app.node.on_shutting_down()
        super().wait_for_soft_shutdown()

    def stop(self, *args: Any, **kwargs: Any) -> None:
        self.app.node.on_shutting_down()
        super().stop(*args, **kwargs)

    def _process_task(self, request: Any) -> None:
        """Give the request to the pool.

        If the job may not begin, its process goes to the next request. Celery 5.7 does that in a
        call within the call, which recurses too deeply if hundreds of jobs may not begin. While the
        node does not know its term, the request keeps its process, and jobs begin in order.
        """
        slots = self.app.node.slots
        job_id = job_id_of(request.request_dict)
        if self.pool_cls.uses_semaphore and slots.must_await_term(job_id):
            self.timer.call_after(_PAUSE, self._process_task, (request,))
            return
        try:
            request.execute_using_pool(self.pool)
        except TaskRevokedError:
            if release := getattr(self, "_quick_release", None):
                slots.in_loop(release)


def prepare(
    app: Celery, plugin: MinSched, registration: RegisterNodeRequest, pulse_client: redis.Redis
) -> Node:
    """Make the application's worker this node's: its queue, its keys, its consumer."""
    queue = queue_name(registration.node_id)
    on_redis = app.connection_for_read().transport.driver_type == "redis"
    app.conf.update(
        worker_consumer=NodeConsumer,
        # Each message in the queue has a slot here: take them all.
        worker_prefetch_multiplier=0,
        worker_disable_prefetch=False,
        # If Redis refuses (it has become a replica, has no memory), connect again and go on.
        broker_channel_error_retry=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(app, registration.node_id),
        **result_options(app),
    )
    # An exchange of its own: the default exchange would bind the queue to the key of plain tasks.
    # On Redis a queue needs no declaration, and a declaration leaves a _kombu.binding key behind.
    app.amqp.queues.add(Queue(queue, Exchange(queue), routing_key=queue, no_declare=on_redis))
    app.Worker = app.subclass_with_self(NodeWorker)
    node = app.node = Node(plugin, registration, pulse_client)
    signals.worker_ready.connect(_on_ready, weak=False)
    signals.worker_shutting_down.connect(
        lambda **_: node.on_shutting_down(), weak=False, dispatch_uid="minsched-shutting-down"
    )
    signals.task_revoked.connect(_on_revoked, weak=False)
    tracing.follow_tasks()
    follow_logging()
    return node


def _on_ready(sender: Any, **_: Any) -> None:
    log_parser()
    sender.app.node.on_ready(sender.controller)


def _on_revoked(sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    """The task was revoked or has expired, and never ran.

    A terminated task ends with its process: ``Request.on_failure`` sees that.
    """
    job_id = job_id_of({HEADER: getattr(request, HEADER, None)})
    if job_id and not terminated:
        sender.app.node.endings.report(job_id, "failed", "expired" if expired else "revoked")
