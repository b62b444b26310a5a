"""``top``: the fleet, live."""

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

from ..monitor.models import NODE_STATES, NodeView
from ..monitor.queries import Views
from ..monitor.snapshot import Counters, Snapshot, count, look
from .common import (
    console,
    duration,
    json_option,
    names,
    percent,
    plugin,
    plural,
    print_json,
    state,
    table,
)
from .show import lines_table, pools_table
from .waiting import poll

_BAR = 12  # cells
_MOST = 8  # pools, and lines, that are shown
_MOST_NODES = 100  # that are shown where the output is no terminal
_INTERVAL, _ONCE = 2.0, 0.5  # seconds between two looks; before the one look of --once
_ORDER = list(NODE_STATES)


@click.command()
@click.option(
    "--once", is_flag=True, help="One look, after an interval in which the pace is measured."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    help=f"Seconds between two looks.  [default: {_INTERVAL:g}; with --once, {_ONCE:g}]",
)
@json_option
def top(once: bool, interval: float | None, as_json: bool) -> None:
    """The fleet, live: slots, load, what waits, and how fast things go. Ctrl-C ends it.

    The fullest nodes first, as many as the terminal has lines for. Where the output is no terminal,
    each look is written below the one before; with --json, as one object a line. On a terminal it
    goes on while Redis is away, and says so.
    """
    views = plugin().views
    out = console()
    with suppress(KeyboardInterrupt):
        if once:
            snapshot = next(_snapshots(views, interval or _ONCE))
            return _write(out, snapshot, as_json)
        if out.is_terminal and not as_json:
            return _watch(out, views, interval or _INTERVAL)
        for snapshot in _snapshots(views, interval or _INTERVAL):
            _write(out, snapshot, as_json)
    return None


def _snapshots(views: Views, interval: float) -> Iterator[Snapshot]:
    """The fleet after each interval, with the rates of the interval."""
    before: Counters = count(views)
    for _ in islice(poll(interval=interval), 1, None):
        before = snapshot = look(views, before)
        yield snapshot


def _write(out: Console, snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        print_json(snapshot, on_one_line=True)
    else:
        out.print(_page(snapshot), "")


def _watch(out: Console, views: Views, interval: float) -> None:
    snapshot, trouble = look(views), ""
    page = _page(snapshot, out.height)
    with Live(page, console=out, screen=True, auto_refresh=False) as live:
        for _ in islice(poll(interval=interval), 1, None):
            try:
                snapshot, trouble = look(views, snapshot), ""
            except RedisError as exc:
                trouble = f"Redis is away, this was before: {exc}"
            live.update(_page(snapshot, out.height, trouble), refresh=True)


def _page(snapshot: Snapshot, height: int | None = None, trouble: str = "") -> RenderableType:
    """All of it; on ``height`` lines, with no more nodes than fit."""
    parts: list[RenderableType] = [_head(snapshot)]
    if trouble:
        parts.append(Text(trouble, style="red", no_wrap=True))
    used = 4
    pools, lines = snapshot.pools[:_MOST], snapshot.lines[:_MOST]
    for made, rows, total, what in (
        (pools_table(pools), pools, len(snapshot.pools), "pool"),
        (lines_table(lines, snapshot.ts), lines, snapshot.line_count, "line"),
    ):
        more = _more(total - len(rows), what)
        if rows:
            parts += ["", made, *more]
            used += 2 + len(rows) + len(more)
    nodes = sorted(snapshot.nodes, key=_fullest_first)
    shown = nodes[: _MOST_NODES if height is None else max(height - used - 3, 1)]
    if shown:
        parts += ["", _nodes_table(shown)]
    return Group(*parts, *_more(len(nodes) - len(shown), "node"))


def _more(number: int, what: str) -> list[str]:
    return [f"… and {plural(number, what)} more"] if number > 0 else []


def _fullest_first(node: NodeView) -> tuple[int, float, str]:
    return _ORDER.index(node.state), -node.current_jobs / max(node.max_jobs, 1), node.node_id


def _head(snapshot: Snapshot) -> Table:
    """Three lines: the fleet, its pace, the server."""
    states = Counter(node.state for node in snapshot.nodes)
    told = ", ".join(f"{states[word]} {word}" for word in _ORDER if states[word])
    working = [node for node in snapshot.nodes if node.takes_jobs]
    slots = sum(node.max_jobs for node in working)
    taken = sum(node.current_jobs for node in working)
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_row(
        Text("fleet", style="bold"),
        f"{plural(len(snapshot.nodes), 'node')}{f' ({told})' if told else ''}, "
        f"{taken}/{slots} slots, {snapshot.waiting} waiting",
    )
    pace, server = snapshot.pace, snapshot.server
    if pace:
        waits = f", waits of {duration(pace.wait_ms)}" if pace.wait_ms else ""
        made.add_row(
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
    made.add_row(Text("Redis", style="bold"), f"{server.round_trip_ms:.2f} ms away{scripts}")
    return made


def _nodes_table(nodes: list[NodeView]) -> Table:
    made = table(
        *("NODE", "STATE", "SLOTS", "", "CPU", "GPU", "MEM", "POOLS"),
        right=("CPU", "GPU", "MEM"),
        fold=("NODE", "POOLS"),
    )
    for node in nodes:
        made.add_row(
            *(node.node_id, state(node.state), _bar(node), f"{node.current_jobs}/{node.max_jobs}"),
            *(percent(node.load.get(part)) for part in ("cpu", "gpu", "mem")),
            names(node.pools),
        )
    return made


def _bar(node: NodeView) -> Text:
    """A cell for each slot, or for a share of them; one that is taken at all shows."""
    cells = min(node.max_jobs, _BAR)
    filled = min(-(-node.current_jobs * cells // max(node.max_jobs, 1)), cells)
    return Text("■" * filled + "□" * (cells - filled), style=state(node.state).style)
