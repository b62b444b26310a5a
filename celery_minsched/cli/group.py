"""The group of commands, and what they share: the application's scheduler, tables, errors."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import click
from celery.exceptions import ImproperlyConfigured
from click_didyoumean import DYMGroup
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from rich.console import Console

from ..errors import SchedulerError
from ..plugin import MinSched


class CannotAsk(click.ClickException):
    """A command that could not do what it was asked for; says why in a sentence."""

    exit_code: ClassVar[int] = 2


class Group(DYMGroup):
    """A group whose commands fail with a sentence and no traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (RedisError, OperationalError) as exc:
            raise CannotAsk(f"Redis does not answer as it should: {exc}") from exc
        except (ImproperlyConfigured, SchedulerError) as exc:
            raise CannotAsk(str(exc)) from exc


@click.group(cls=Group)
def minsched() -> None:
    """See the nodes of minsched, know why, and act."""


def plugin_of(context: click.Context) -> MinSched:
    """The scheduler of the application that ``celery -A`` names."""
    app = context.obj.app
    plugin = getattr(app, "minsched", None)
    if not isinstance(plugin, MinSched):
        raise CannotAsk(
            f"the application {app.main or '(none)'!r} has no scheduler: name one with celery -A, "
            "and write MinSched(app) below its Celery(...)"
        )
    return plugin


def console_of(context: click.Context) -> Console:
    """Where to print: coloured on a terminal, plain and 80 columns wide where it is piped."""
    return Console(no_color=context.obj.no_color or None, highlight=False, soft_wrap=False)


def printable(text: str) -> str:
    """Text with whatever a terminal would not show, or obey, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    click.echo(json.dumps(value, indent=2))


#: Of every command that answers.
as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
