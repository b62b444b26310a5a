"""``celery -A app minsched …``: see the fleet, know why, and act on it.

Celery finds the group by its entry point ``celery.commands`` (celery 5.7, ``celery/bin/celery.py``)
and leaves the application in the context. A command asks :mod:`celery_minsched.monitor`. Only the
commands in :mod:`.act` change anything.
"""

from __future__ import annotations

from typing import Any

import click
from celery.exceptions import ImproperlyConfigured
from click_didyoumean import DYMGroup
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from ..core.errors import SchedulerError
from ..plugin import remote  # noqa: F401 - celery inspect and control know what their own process knows
from .act import drain, pause, rescue, resume, undrain
from .check import check
from .command import Failure
from .exporter import exporter
from .flower import flower
from .migrate import migrate
from .move import adopt, release
from .scripts import scripts
from .show import events, jobs, nodes, pools, waiting, why
from .simulate import simulate_command
from .top import top


class _Group(DYMGroup):
    """Tells what goes wrong in a sentence, with exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RedisError, OperationalError) as exc:
            raise Failure(f"Redis does not answer as it should: {exc}") from exc
        except (SchedulerError, ImproperlyConfigured) as exc:
            raise Failure(str(exc)) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def minsched() -> None:
    """The nodes, what waits and why; and act on it.

    Every command has --json. Exit code 2 says that it could not be done or answered; why, a
    sentence on standard error.
    """


for command in (
    *(nodes, pools, jobs, waiting, top, why, events),
    *(drain, undrain, pause, resume, rescue),
    *(check, scripts, exporter, flower, simulate_command),
    *(migrate, adopt, release),
):
    minsched.add_command(command)
