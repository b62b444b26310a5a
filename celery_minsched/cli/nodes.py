"""``celery minsched nodes``."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table

from ..core.printing import duration
from ..monitor.models import NODE_DESCRIPTION, NODE_STATES, NodeView
from .options import json_option, page_of, page_options, plugin
from .output import (
    console,
    joined,
    load_cells,
    print_json,
    print_more,
    styled_state,
    table,
)

_STATES = "\n".join(f"       {state:<9} {meaning}" for state, meaning in NODE_STATES.items())
_HELP = f"""Show the nodes with their states, slots and load.

\b
STATE  {_STATES.lstrip()}
HEARD  the time since the last heartbeat
"""


@click.command("nodes", help=_HELP)
@page_options
@json_option
def nodes_command(limit: int | None, offset: int, as_json: bool) -> None:
    views = plugin().views
    nodes = views.nodes()
    rows = page_of(nodes, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not nodes:
        return console().print("No node is registered.")
    console().print(node_table(rows, views.now()))
    return print_more(len(nodes), offset + len(rows), "node")


def node_table(nodes: Sequence[NodeView], now: int) -> Table:
    """One row a node. ``now`` is in ms."""
    titles = [title.upper() for title in NODE_DESCRIPTION.values()]
    rows = table(
        *("NODE", "STATE", "SLOTS", "CPU", "GPU", "MEM", "HEARD", *titles),
        right=("SLOTS", "CPU", "GPU", "MEM", "HEARD"),
        fold=("NODE", *titles),
    )
    for node in nodes:
        rows.add_row(
            *(node.node_id, styled_state(node.state), f"{node.current_jobs}/{node.max_jobs}"),
            *load_cells(node.load),
            duration(now - node.last_heartbeat_ts) if node.last_heartbeat_ts else "-",
            *(joined(names) for names in node.description.values()),
        )
    return rows
