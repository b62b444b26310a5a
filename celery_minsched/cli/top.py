"""``celery minsched top``: a live view of the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import click
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..core.printing import duration
from ..monitor.models import NODE_STATES, NodeView
from ..monitor.queries import Views
from ..monitor.snapshot import Counters, Snapshot, read_counters, take_snapshot
from .lines import line_table
from .options import json_option, plugin
from .output import console, joined, load_cells, plural, print_json, styled_state, table
from .pools import pool_table
from .waiting import poll

_BAR_CELLS = 12
_MAX_POOLS = _MAX_LINES = 8
_MAX_NODES = 100  # without a terminal
_INTERVAL, _ONCE_INTERVAL = 2.0, 0.5  # seconds
_STATE_ORDER = list(NODE_STATES)
_HEAD_ROWS = 4  # of the page: the head and the empty row above a table
_TABLE_ROWS = 3  # an empty row, the column names, and one row for "… and 3 nodes more"


@click.command()
@click.option("--once", is_flag=True, help="Measure for one interval, print one view, and end.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    help=f"Seconds between two views.  [default: {_INTERVAL:g}; with --once, {_ONCE_INTERVAL:g}]",
)
@json_option
def top(once: bool, interval: float | None, as_json: bool) -> None:
    """Show a live view: slots, load, waiting jobs and rates. Ctrl-C ends it.

    The view shows the fullest nodes first, as many as the terminal has rows for. If the output is
    not a terminal, the command prints each view below the last one. With --json each view is one
    object a line. On a terminal the command continues to run while Redis does not answer.
    """
    views = plugin().views
    out = console()
    with suppress(KeyboardInterrupt):
        if once:
            return _print(out, next(_snapshots(views, interval or _ONCE_INTERVAL)), as_json)
        if out.is_terminal and not as_json:
            return _show_live(out, views, interval or _INTERVAL)
        for snapshot in _snapshots(views, interval or _INTERVAL):
            _print(out, snapshot, as_json)
    return None


def _snapshots(views: Views, interval: float) -> Iterator[Snapshot]:
    """The fleet at the end of each interval, with the rates in the interval."""
    before: Counters = read_counters(views)
    for _ in islice(poll(interval=interval), 1, None):
        before = snapshot = take_snapshot(views, before)
        yield snapshot


def _print(out: Console, snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        print_json(snapshot, on_one_line=True)
    else:
        out.print(_page(snapshot), "")


def _show_live(out: Console, views: Views, interval: float) -> None:
    snapshot, problem = take_snapshot(views), ""
    page = _page(snapshot, out.height)
    with Live(page, console=out, screen=True, auto_refresh=False) as live:
        for _ in islice(poll(interval=interval), 1, None):
            try:
                snapshot, problem = take_snapshot(views, snapshot), ""
            except RedisError as exc:
                problem = f"Redis does not answer. This view is old. {exc}"
            live.update(_page(snapshot, out.height, problem), refresh=True)


def _page(snapshot: Snapshot, height: int | None = None, problem: str = "") -> RenderableType:
    """The view. On a terminal with ``height`` rows it has only as many nodes as fit."""
    parts: list[RenderableType] = [_head(snapshot)]
    if problem:
        parts.append(Text(problem, style="red", no_wrap=True))
    used_rows = _HEAD_ROWS
    pools, lines = snapshot.pools[:_MAX_POOLS], snapshot.lines[:_MAX_LINES]
    for rows, row_count, total, noun in (
        (pool_table(pools), len(pools), len(snapshot.pools), "pool"),
        (line_table(lines, snapshot.ts), len(lines), snapshot.line_count, "line"),
    ):
        more = _more(total - row_count, noun)
        if row_count:
            parts += ["", rows, *more]
            used_rows += 2 + row_count + len(more)
    nodes = sorted(snapshot.nodes, key=_fullest_first)
    most = _MAX_NODES if height is None else max(height - used_rows - _TABLE_ROWS, 1)
    if nodes:
        parts += ["", _node_table(nodes[:most])]
    return Group(*parts, *_more(len(nodes) - most, "node"))


def _more(number: int, noun: str) -> list[str]:
    return [f"… and {plural(number, noun)} more"] if number > 0 else []


def _fullest_first(node: NodeView) -> tuple[int, float, str]:
    share = node.current_jobs / max(node.max_jobs, 1)
    return _STATE_ORDER.index(node.state), -share, node.node_id


def _head(snapshot: Snapshot) -> Table:
    """Three rows: the fleet, its rates, and Redis."""
    states = Counter(node.state for node in snapshot.nodes)
    words = ", ".join(f"{states[state]} {state}" for state in _STATE_ORDER if states[state])
    working = [node for node in snapshot.nodes if node.takes_jobs]
    slots = sum(node.max_jobs for node in working)
    taken = sum(node.current_jobs for node in working)
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text("fleet", style="bold"),
        f"{plural(len(snapshot.nodes), 'node')}{f' ({words})' if words else ''}, "
        f"{taken}/{slots} slots, {snapshot.waiting} waiting",
    )
    pace, server = snapshot.pace, snapshot.server
    if pace:
        waits = f", waits of {duration(pace.wait_ms)}" if pace.wait_ms else ""
        head.add_row(
            Text("jobs/s", style="bold"),
            f"{pace.placed:.1f} placed, {pace.ended:.1f} ended, {pace.failed:.1f} failed or lost, "
            f"{pace.began_to_wait:.1f} began to wait{waits}",
        )
    scripts = (
        f", {pace.script_ms:.3f} ms a script, {pace.scripts:.0f} scripts/s, "
        f"{pace.commands:.0f} commands/s"
        if pace and server.commands
        else ""
    )
    head.add_row(Text("Redis", style="bold"), f"{server.round_trip_ms:.2f} ms away{scripts}")
    return head


def _node_table(nodes: list[NodeView]) -> Table:
    rows = table(
        *("NODE", "STATE", "SLOTS", "", "CPU", "GPU", "MEM", "POOLS"),
        right=("CPU", "GPU", "MEM"),
        fold=("NODE", "POOLS"),
    )
    for node in nodes:
        rows.add_row(
            *(node.node_id, styled_state(node.state), _slot_bar(node)),
            f"{node.current_jobs}/{node.max_jobs}",
            *load_cells(node.load),
            joined(node.pools),
        )
    return rows


def _slot_bar(node: NodeView) -> Text:
    """One cell a slot, or a share of the slots. If any slot is taken, at least one cell is full."""
    cells = min(node.max_jobs, _BAR_CELLS)
    full = min(-(-node.current_jobs * cells // max(node.max_jobs, 1)), cells)
    return Text("■" * full + "□" * (cells - full), style=styled_state(node.state).style)
