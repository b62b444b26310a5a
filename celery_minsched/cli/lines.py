"""``celery minsched waiting``."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table

from ..core.printing import duration
from ..monitor.lines import MOST_LINES
from ..monitor.models import LineView
from .options import json_option, page_of, page_options, plugin
from .output import (
    console,
    joined,
    plural,
    print_json,
    print_line,
    print_more,
    styled_state,
    table,
)


@click.command("waiting")
@page_options
@json_option
def waiting_command(limit: int | None, offset: int, as_json: bool) -> None:
    """Show the lines of waiting jobs. The line with the longest wait comes first.

    If there are more than 1,000 lines, the command reads the first 1,000 that Redis returns.
    --offset and --limit can ask for more.

    WHY is busy if all nodes that can run the jobs are full or away. WHY is impossible if no
    registered node can run them. These jobs wait until such a node registers.
    """
    views = plugin().views
    lines = sorted(
        views.lines(max(MOST_LINES, offset + (limit or 0))), key=lambda line: line.oldest_ts
    )
    total = max(views.line_count(), len(lines))
    if total > len(lines):
        print_line(
            f"Read {plural(len(lines), 'line')} of {total:,}. "
            f"{plural(views.waiting_count(), 'job')} wait in all lines. "
            f"--limit {total} reads all lines.",
            is_error=True,
        )
    rows = page_of(lines, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not lines:
        return console().print("No job waits.")
    console().print(line_table(rows, views.now()))
    return print_more(total, offset + len(rows), "line")


def line_table(lines: Sequence[LineView], now: int) -> Table:
    """One row a line. ``now`` is in ms."""
    rows = table(
        *("FOR", "CAPABILITIES", "NODE", "WAITING", "OLDEST", "WHY"),
        right=("WAITING", "OLDEST"),
        fold=("FOR", "CAPABILITIES", "NODE"),
    )
    for line in lines:
        rows.add_row(
            line.where.replace("|", " or "),
            *(joined(line.capabilities), line.required_node or "-"),
            *(str(line.waiting), duration(now - line.oldest_ts) if line.oldest_ts else "-"),
            styled_state(line.state),
        )
    return rows
