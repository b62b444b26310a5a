"""The application that a command works for, and the options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from ..plugin.plugin import MinSched
from .command import Failure

Option = TypeVar("Option", bound=Callable[..., Any])
Row = TypeVar("Row")

#: Rows of a table without ``--limit``.
DEFAULT_ROWS = 100


def plugin() -> MinSched:
    """The plugin of the application that ``celery -A`` names."""
    app = click.get_current_context().obj.app
    plugin = getattr(app, "minsched", None)
    if not isinstance(plugin, MinSched):
        raise Failure(
            f"the application {app.main!r} has no scheduler. Write MinSched(app) below its "
            "Celery(...), and name the application before the command: celery -A APP minsched …"
        )
    return plugin


def json_option(command: Option) -> Option:
    """``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def offset_option(command: Option) -> Option:
    """``--offset``, as ``offset``."""
    return click.option(
        "--offset", type=click.IntRange(min=0), default=0, help="Skip this many rows first."
    )(command)


def page_options(command: Option) -> Option:
    """``--limit`` and ``--offset``, as ``limit`` (``None`` without the option) and ``offset``."""
    limit = click.option(
        "--limit",
        type=click.IntRange(min=1),
        help=f"Show at most this many rows.  [default: {DEFAULT_ROWS}; with --json, all]",
    )
    return limit(offset_option(command))


def page_of(rows: Sequence[Row], limit: int | None, offset: int, as_json: bool) -> Sequence[Row]:
    """The rows that a command with ``page_options`` shows."""
    default = len(rows) if as_json else DEFAULT_ROWS
    return rows[offset : offset + (limit or default)]


def timeout_option(help_text: str) -> Callable[[Option], Option]:
    """``--timeout``, in seconds, as ``timeout``."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
        help=help_text,
    )
