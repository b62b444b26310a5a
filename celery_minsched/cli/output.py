"""The output of commands: a console for printable text, tables, JSON, and values as words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import click
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..core.field_types import RESOURCES
from ..core.printing import printable

STATE_STYLES = {
    "free": "green",
    "full": "yellow",
    "draining": "cyan",
    "starting": "cyan",
    "stopping": "cyan",
    "stuck": "red",
    "dead": "red",
    "left": "dim",
    "broken": "red",
    "open": "green",
    "paused": "cyan",
    "busy": "yellow",
    "impossible": "red",
}


class Terminal(Console):
    """A console that replaces unprintable characters and writes no control codes but its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Replace unprintable characters before rich measures the text."""
        return super().render_str(printable(text, keep="\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Replace unprintable characters in all other output."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


def console() -> Terminal:
    """Standard output. Only a terminal gets colours. Other output has 80 columns."""
    system: Literal["auto"] | None = None if click.get_current_context().obj.no_color else "auto"
    return Terminal(color_system=system, highlight=False, markup=False, emoji=False)


def print_json(answer: BaseModel | Iterable[BaseModel], *, on_one_line: bool = False) -> None:
    """Print a model as an object, or several models as a list."""
    plain: Any = (
        answer.model_dump(mode="json")
        if isinstance(answer, BaseModel)
        else [item.model_dump(mode="json") for item in answer]
    )
    click.echo(json.dumps(plain, indent=None if on_one_line else 2))


def print_line(sentence: str, *, is_error: bool = False) -> None:
    """Print one line without wrapping it."""
    click.echo(printable(sentence), err=is_error)


def print_more(total: int, end: int, noun: str) -> None:
    """Print how many rows follow row number ``end``, if there are more."""
    if total > end:
        console().print(f"… and {plural(total - end, noun)} more. See --limit and --offset.")


def table(*columns: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """A plain table. If it is too wide, the columns in ``fold`` wrap. No text is cut off."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name not in fold,
        )
    return table


def styled_state(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def local_time(milliseconds: int) -> str:
    """A local date and time to the second, or "-" if Python has no such date."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"


def load_cells(load: Mapping[str, object]) -> list[str]:
    """A cell for each resource: the load in percent, or "-" if the node does not report it."""
    values = (load.get(resource) for resource in RESOURCES)
    return [f"{value:.0f}%" if isinstance(value, int | float) else "-" for value in values]


def joined(names: Iterable[str]) -> str:
    """Names in one cell, or "-"."""
    return " ".join(names) or "-"


def plural(number: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
