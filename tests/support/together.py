"""A task with its own strategy, which runs several calls together."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task, current_app
from celery.worker.request import create_request_cls
from kombu.utils.imports import symbol_by_name


class Together(Task):
    """Runs three calls in one, as celery-batches does (up to Celery 5.6)."""

    abstract = True

    def Strategy(self, task: Any, app: Celery, consumer: Any) -> Any:
        base, dispatcher = symbol_by_name(task.Request), consumer.event_dispatcher
        make = create_request_cls(base, task, consumer.pool, consumer.hostname, dispatcher, app=app)
        requests: list[Any] = []

        def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any) -> None:
            place = {"headers": message.headers, "body": message.body, "decoded": False}
            requests.append(make(message, on_ack=ack, on_reject=reject, app=app, **place))
            if len(requests) == 3:
                three = requests.copy()
                requests.clear()
                consumer.pool.apply_async(
                    run_together,
                    ([request.id for request in three],),
                    accept_callback=lambda *_: [request.acknowledge() for request in three],
                )

        return handle


def run_together(task_ids: list[str]) -> None:
    for task_id in task_ids:
        current_app.backend.mark_as_done(task_id, len(task_ids))
