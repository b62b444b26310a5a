"""``MinSched(app)``: the one line that installs everything in a Celery application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice

from celery import Celery, Signature
from celery.app.amqp import AMQP
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult
from kombu.utils.imports import symbol_by_name

from ..core import settings
from ..core.demand import Demand
from ..core.errors import InvalidDemand
from ..core.layout import check_layout
from ..core.scheduler import MinimalSchedulerService
from ..monitor.models import JobView
from ..monitor.queries import Views
from . import batch as bulk
from . import connection
from .database_url import follow_configuration
from .publish import BATCH, SchedulingAMQP, failing
from .request_place import give_requests_a_place

_OR_ONE_REDIS = "or let minsched_database_url and the broker be the same."


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
                "celery_minsched.plugin.publish.SchedulingAMQP instead of calling MinSched(app)."
            )
        self.app = app
        app.minsched = self
        follow_configuration(app)
        give_requests_a_place()
        app.amqp_cls = SchedulingAMQP
        app.__dict__.pop("amqp", None)  # one that was made already does not dispatch

    @cached_property
    def settings(self) -> settings.Settings:
        """The ``minsched_*`` settings. Raises ``ImproperlyConfigured`` for a wrong one."""
        if self.app.conf.task_protocol == 1:
            raise ImproperlyConfigured(
                "task_protocol = 1: a message of Celery's first protocol has no headers, which say "
                "what its task asks for. Set task_protocol = 2, which is Celery's default."
            )
        return settings.from_app(self.app)

    def check_when_full(self, demand: Demand) -> None:
        """Check a demand that is about to be sent, and the settings that count for it.

        Raises ``ImproperlyConfigured`` or :class:`InvalidDemand` if it would have to wait and
        cannot.
        """
        if self.can_park:
            return
        self._check_settings()
        if demand.when_full == "wait":
            obstacle = connection.why_not_wait(self.app, self.settings.database_url)
            raise InvalidDemand(message=f"when_full: {obstacle} Ask for 'error', {_OR_ONE_REDIS}")

    def _check_settings(self) -> None:
        """Refuse settings by which tasks would have to wait and cannot.

        Only when the scheduler is needed: an application that runs its tasks itself has no Redis.
        """
        found = self.settings
        waits = {"minsched_when_full": found.when_full} | {
            f"minsched_routes[{pattern!r}]['when_full']": demand.get("when_full")
            for pattern, demand in found.routes.items()
        }
        obstacle = connection.why_not_wait(self.app, found.database_url)
        for name, when_full in waits.items():
            if obstacle and when_full == "wait":
                raise ImproperlyConfigured(f"{obstacle} Set {name} = 'error', {_OR_ONE_REDIS}")

    @cached_property
    def can_park(self) -> bool:
        """May a task's message lie at no node, until there is a slot or it is due?"""
        return not connection.why_not_wait(self.app, self.settings.database_url)

    @cached_property
    def is_on_broker(self) -> bool:
        """Are the scheduler's scripts called as the broker's messages are read: on the same server,
        by the same user?
        """
        conf = self.app.conf
        return self.settings.database_url is None and conf.broker_read_url == conf.broker_write_url

    @cached_property
    def scheduler(self) -> MinimalSchedulerService:
        """The scheduler on this application's Redis. Raises kombu's ``OperationalError``, and
        :class:`WrongLayout` where Redis is of a version with another layout.
        """
        found = self.unchecked_scheduler()
        check_layout(found.redis, found.keys)
        found.follow_fleet()
        return found

    def unchecked_scheduler(self) -> MinimalSchedulerService:
        """The same, whatever the layout: for who changes that."""
        self._check_settings()
        client = connection.client_of(self.app, self.settings.database_url)
        keys = connection.keys_of(self.app, self.settings.key_prefix)
        return MinimalSchedulerService(client, self.settings, keys)

    @property
    def views(self) -> Views:
        """Read-only questions about nodes, pools and jobs."""
        return Views(self.scheduler.redis, self.scheduler.keys, self.scheduler.settings)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Hold back the tasks sent within, in this thread, and send them at the end, a hundred in a
        round trip: ``with app.minsched.batch(): group(...).apply_async()``.

        What ``apply_async`` raises for a task that could not be sent is raised at the end. As with
        one call after the other, the tasks before it have been sent and those after it have not.
        """
        amqp = self.app.amqp
        with amqp.hold_back() as jobs:
            yield
        with failing(jobs), amqp.send_batches() as send:
            for start in range(0, len(jobs), BATCH):
                send(jobs[start : start + BATCH])

    def dispatch_many(self, signatures: Iterable[Signature]) -> list[AsyncResult]:
        """Send many tasks, a hundred in a round trip, in which the next hundred are made; their
        results in order.

        Raises what ``apply_async`` does. Of a task that the scheduler refuses, those before it have
        been sent; what is wrong with a call is found before anything of its hundred is sent.
        """
        results = []
        signatures = iter(signatures)
        with self.app.amqp.send_batches() as send:
            while batch := list(islice(signatures, BATCH)):
                with self.app.amqp.hold_back() as jobs:
                    results += bulk.send(self.app, batch, jobs)
                if jobs:
                    send(jobs)
        return results

    def where(self, task_id: str) -> JobView | None:
        """Where a task went: its latest job; ``None`` where the scheduler never placed it.

        A result can be there some milliseconds before the job has ended and its slot is free.
        """
        return self.views.job_of_task(task_id)


def plugin_of(app: Celery) -> MinSched:
    """The application's plugin. Made anew in a process that got the application by pickle."""
    plugin: MinSched = getattr(app, "minsched", None) or MinSched(app)
    return plugin
