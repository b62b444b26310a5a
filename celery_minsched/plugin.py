"""``MinSched(app)``: the one line that installs everything in a Celery application."""

from __future__ import annotations

from functools import cached_property

from celery import Celery
from celery.app.amqp import AMQP
from celery.exceptions import ImproperlyConfigured
from kombu.utils.imports import symbol_by_name

from . import connection, settings
from .publish import SchedulingAMQP
from .scheduler import MinimalSchedulerService
from .views import JobView, Views


class MinSched:
    """The scheduler of one Celery application.

    Nothing is read or connected here: the configuration may still be loaded, and the first task
    that has a demand makes the connection. The plugin is found again as ``app.minsched``.
    """

    def __init__(self, app: Celery) -> None:
        base = symbol_by_name(app.amqp_cls)
        if base not in (AMQP, SchedulingAMQP):
            raise ImproperlyConfigured(
                f"The application has an AMQP class of its own, {base!r}. Derive it from "
                "celery_minsched.publish.SchedulingAMQP instead of calling MinSched(app)."
            )
        self.app = app
        app.minsched = self
        app.amqp_cls = SchedulingAMQP
        app.__dict__.pop("amqp", None)  # one that was made already does not dispatch

    @cached_property
    def settings(self) -> settings.Settings:
        """The ``minsched_*`` settings. Raises ``ImproperlyConfigured`` for a wrong one."""
        return settings.from_app(self.app)

    @cached_property
    def scheduler(self) -> MinimalSchedulerService:
        """The scheduler on this application's Redis. Raises kombu's ``OperationalError``."""
        client = connection.client_of(self.app, self.settings.redis_url)
        return MinimalSchedulerService(client, self.settings, connection.queue_prefix(self.app))

    @property
    def views(self) -> Views:
        """Read-only questions about nodes, pools and jobs."""
        return Views(self.scheduler.redis, self.scheduler.keys)

    def where(self, task_id: str) -> JobView | None:
        """Where a task went: its latest job; ``None`` where the scheduler never placed it."""
        return self.views.job_of_task(task_id)


def plugin_of(app: Celery) -> MinSched:
    """The application's plugin. Made anew in a process that got the application by pickle."""
    plugin: MinSched = getattr(app, "minsched", None) or MinSched(app)
    return plugin
