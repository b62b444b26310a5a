"""What the commands share: the application's scheduler, and how answers are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

import click
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..core.printing import printable
from ..plugin.plugin import MinSched
from .command import Failure

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T")

STYLES = {
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
    """A console that writes only what is printable, and its own codes: colours, the cursor."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich measures it."""
        return super().render_str(printable(text, keep="\n"), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """All that is written comes by here in the end."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


def plugin() -> MinSched:
    """The scheduler of the application that ``celery -A`` names."""
    app = click.get_current_context().obj.app
    found = getattr(app, "minsched", None)
    if not isinstance(found, MinSched):
        raise Failure(
            f"the application {app.main!r} has no scheduler: write MinSched(app) below its "
            "Celery(...), and name it before the command: celery -A APP minsched …"
        )
    return found


def json_option(command: Command) -> Command:
    """``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON.")(command)


#: Rows of a table, where the caller does not say.
ROWS = 100


def page_options(command: Command) -> Command:
    """``--limit`` and ``--offset``, as ``limit`` (``None`` if it is not given) and ``offset``."""
    limit = click.option(
        "--limit",
        type=click.IntRange(min=1),
        help=f"At most so many.  [default: {ROWS}; with --json, all]",
    )
    offset = click.option(
        "--offset", type=click.IntRange(min=0), default=0, help="Skip so many before the first."
    )
    return limit(offset(command))


def shown(found: Sequence[T], limit: int | None, offset: int, as_json: bool) -> Sequence[T]:
    """The rows that a command shows of those found."""
    most = len(found) if as_json else ROWS
    return found[offset : offset + (limit or most)]


def print_more(total: int, end: int, what: str) -> None:
    """How many rows come after ``end``, if any do."""
    if total > end:
        console().print(f"… and {plural(total - end, what)} more; see --limit and --offset.")


def print_json(answer: BaseModel | Iterable[BaseModel], *, on_one_line: bool = False) -> None:
    """A model as an object, several as a list."""
    plain: Any = (
        answer.model_dump(mode="json")
        if isinstance(answer, BaseModel)
        else [item.model_dump(mode="json") for item in answer]
    )
    click.echo(json.dumps(plain, indent=None if on_one_line else 2))


def say(sentence: str, *, is_error: bool = False) -> None:
    """Write a line, printable, and as long as it is."""
    click.echo(printable(sentence), err=is_error)


def console() -> Terminal:
    """Writes to standard output: colours on a terminal only, 80 columns where there is none."""
    system: Literal["auto"] | None = None if click.get_current_context().obj.no_color else "auto"
    return Terminal(color_system=system, highlight=False, markup=False, emoji=False)


def table(*columns: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """A plain table. Columns to ``fold`` give way where the width does not do; none is cut off."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=name not in fold,
        )
    return made


def state(word: str) -> Text:
    """A state in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def duration(milliseconds: float) -> str:
    """A time span in the two units that matter: ``0.4 s``, ``12 s``, ``3 m 10 s``, ``2 d 4 h``."""
    seconds = max(milliseconds, 0) / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {lower}"
    return f"{whole // 60} m {whole % 60} s" if whole >= 60 else f"{whole} s"


def clock(milliseconds: int) -> str:
    """A local time, in seconds; "-" for one beyond the calendar."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"


def percent(value: object) -> str:
    """A reported load; "-" where there is none."""
    return f"{value:.0f}%" if isinstance(value, int | float) else "-"


def names(values: Iterable[str]) -> str:
    """Names in one cell."""
    return " ".join(values) or "-"


def plural(number: int, what: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
