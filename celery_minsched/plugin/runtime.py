"""The scheduler of one Celery application: its settings, its connection, and what can wait."""

from __future__ import annotations

from functools import cached_property

from celery import Celery
from celery.exceptions import ImproperlyConfigured

from ..core.demand import Demand
from ..core.errors import InvalidDemand
from ..core.layout import check_layout
from ..core.scheduler import MinimalSchedulerService
from ..core.settings import Settings
from .config import read_settings
from .connection import client_of, keys_of, waiting_unsupported_reason
from .database_url import follow_configuration
from .request_place import add_place_to_requests

_OR_ONE_REDIS = "or use one Redis database for minsched_database_url and the broker."


class Runtime:
    """What the plugin's modules need of an application.

    The constructor reads no configuration and connects to nothing: the application may still load
    its configuration. The first task with a demand makes the connection.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        follow_configuration(app)
        add_place_to_requests()

    @cached_property
    def settings(self) -> Settings:
        """The ``minsched_*`` settings. Raises ``ImproperlyConfigured`` for a wrong one."""
        if self.app.conf.task_protocol == 1:
            raise ImproperlyConfigured(
                "task_protocol = 1: a message of Celery's first protocol has no headers, and the "
                "scheduler needs them for a task's demand. Set task_protocol = 2, which is "
                "Celery's default."
            )
        return read_settings(self.app)

    def check_when_full(self, demand: Demand) -> None:
        """Check that a demand can wait, if it has to, before its task is sent.

        Raises :class:`InvalidDemand` for a demand, and ``ImproperlyConfigured`` for a setting, by
        which a task would have to wait in an application that does not support waiting.
        """
        if self.supports_waiting:
            return
        self._check_settings()
        if demand.when_full == "wait":
            reason = waiting_unsupported_reason(self.app, self.settings.database_url)
            raise InvalidDemand(message=f"when_full: {reason} Ask for 'error', {_OR_ONE_REDIS}")

    def _check_settings(self) -> None:
        """Raise ``ImproperlyConfigured`` if a setting makes tasks wait and waiting is unsupported.

        An application that runs its tasks itself has no Redis, and never calls this.
        """
        settings = self.settings
        values = {"minsched_when_full": settings.when_full} | {
            f"minsched_routes[{pattern!r}]['when_full']": demand.get("when_full")
            for pattern, demand in settings.routes.items()
        }
        reason = waiting_unsupported_reason(self.app, settings.database_url)
        for name, when_full in values.items():
            if reason and when_full == "wait":
                raise ImproperlyConfigured(f"{reason} Set {name} = 'error', {_OR_ONE_REDIS}")

    @cached_property
    def supports_waiting(self) -> bool:
        """Can a task's message lie at no node until a slot is free, or until the task is due?"""
        return not waiting_unsupported_reason(self.app, self.settings.database_url)

    @cached_property
    def is_on_broker(self) -> bool:
        """Does one connection, with one user's rights, reach the scheduler and the broker?"""
        conf = self.app.conf
        return self.settings.database_url is None and conf.broker_read_url == conf.broker_write_url

    @cached_property
    def scheduler(self) -> MinimalSchedulerService:
        """The scheduler on this application's Redis.

        Raises kombu's ``OperationalError``, and :class:`WrongLayout` if a version with another
        layout wrote the state in Redis.
        """
        scheduler = self.unchecked_scheduler()
        check_layout(scheduler.redis, scheduler.keys)
        scheduler.follow_fleet()
        return scheduler

    def unchecked_scheduler(self) -> MinimalSchedulerService:
        """The scheduler without a check of the layout. ``minsched migrate`` changes the layout."""
        self._check_settings()
        client = client_of(self.app, self.settings.database_url)
        keys = keys_of(self.app, self.settings.key_prefix)
        return MinimalSchedulerService(client, self.settings, keys)


def runtime_of(app: Celery) -> Runtime:
    """The application's runtime, made anew in a process that got the application by pickle."""
    runtime: Runtime = getattr(app, "minsched", None) or Runtime(app)
    return runtime
