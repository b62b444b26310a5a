"""``MinSched(app)``: the one line that installs everything in a Celery application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from celery import Celery, Signature
from celery.app.amqp import AMQP
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult
from kombu.utils.imports import symbol_by_name

from ..monitor.models import JobView
from ..monitor.queries import Views
from . import batch
from .dispatch_job import failing
from .publish import BATCH, SchedulingAMQP
from .runtime import Runtime


class MinSched(Runtime):
    """The scheduler of one Celery application, which is also ``app.minsched``.

    ``MinSched(app)`` reads no configuration and connects to nothing. The first task with a demand
    makes the connection. Raises ``ImproperlyConfigured`` for an application with another AMQP
    class.
    """

    def __init__(self, app: Celery) -> None:
        base = symbol_by_name(app.amqp_cls)
        if base not in (AMQP, SchedulingAMQP):
            raise ImproperlyConfigured(
                f"The application has its own AMQP class, {base!r}. Derive it from "
                "celery_minsched.plugin.publish.SchedulingAMQP instead of calling MinSched(app)."
            )
        super().__init__(app)
        app.minsched = self
        app.amqp_cls = SchedulingAMQP
        app.__dict__.pop("amqp", None)  # Celery makes it again, of the new class

    @property
    def views(self) -> Views:
        """Read-only questions about nodes, pools and jobs."""
        return Views(self.scheduler.redis, self.scheduler.keys, self.scheduler.settings)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context manager: collects the tasks that this thread sends, and sends them at the end.

        A round trip sends a hundred tasks. The end raises what ``apply_async`` raises for the first
        task that could not be sent. The tasks before it have been sent, and those after it have
        not. ::

            with app.minsched.batch():
                group(...).apply_async()
        """
        amqp = self.app.amqp
        with amqp.buffer_jobs() as jobs:
            yield
        with failing(jobs), amqp.send_batches() as send:
            for start in range(0, len(jobs), BATCH):
                send(jobs[start : start + BATCH])

    def dispatch_many(self, signatures: Iterable[Signature]) -> list[AsyncResult]:
        """Send many tasks, a hundred in a round trip. Returns their results, in order.

        Raises what ``apply_async`` raises. If the scheduler refuses a task, the tasks before it
        have been sent. A wrong call raises before any task of its hundred is sent.
        """
        results = []
        signatures, sender = iter(signatures), batch.Sender(self.app)
        with self.app.amqp.send_batches() as send:
            while some := list(islice(signatures, BATCH)):
                with self.app.amqp.buffer_jobs() as jobs:
                    results += sender.send(some, jobs)
                if jobs:
                    send(jobs)
        return results

    def find_job(self, task_id: str) -> JobView | None:
        """The latest job of a task, or ``None`` if the scheduler has no record of one.

        A result can be there some milliseconds before the job has ended and its slot is free.
        """
        return self.views.job_of_task(task_id)

    def where(self, task_id: str) -> JobView | None:
        """The same as :meth:`find_job`."""
        return self.find_job(task_id)


def plugin_of(app: Celery) -> MinSched:
    """The application's plugin, made anew in a process that got the application by pickle."""
    plugin: MinSched = getattr(app, "minsched", None) or MinSched(app)
    return plugin
