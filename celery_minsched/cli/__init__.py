"""``celery -A app minsched``: commands that show a fleet and change it.

Celery finds the group by the entry point ``celery.commands`` and passes the application in the
context (celery 5.7, ``celery/bin/celery.py``).
"""

from __future__ import annotations

from typing import Any

import click
from celery.exceptions import ImproperlyConfigured
from click_didyoumean import DYMGroup
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from ..core.errors import SchedulerError
from ..plugin import remote  # noqa: F401 - registers celery inspect and control commands
from .adopt import adopt
from .check import check
from .command import Failure
from .drain import drain, undrain
from .events import events_command
from .exporter import exporter
from .flower import flower
from .jobs import jobs_command
from .lines import waiting_command
from .migrate import migrate
from .nodes import nodes_command
from .pools import pause, pools_command, resume
from .release import release
from .rescue import rescue
from .scripts import scripts
from .simulate import simulate_command
from .top import top
from .why import why


class _Group(DYMGroup):
    """Prints an expected error as a sentence, and ends with exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RedisError, OperationalError) as exc:
            raise Failure(f"Redis does not answer correctly: {exc}") from exc
        except (SchedulerError, ImproperlyConfigured) as exc:
            raise Failure(str(exc)) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def minsched() -> None:
    """Show nodes, pools and jobs, explain where a job is, and act on nodes.

    Commands that show something have --json. Exit code 2 means that a command failed. Standard
    error shows the reason.
    """


for command in (
    *(nodes_command, pools_command, jobs_command, waiting_command, top, why, events_command),
    *(drain, undrain, pause, resume, rescue),
    *(check, scripts, exporter, flower, simulate_command),
    *(migrate, adopt, release),
):
    minsched.add_command(command)
