"""``celery minsched pools``, ``pause`` and ``resume``."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.table import Table

from ..core.errors import EmptyPool
from ..monitor.models import PoolView
from .options import json_option, page_of, page_options, plugin
from .output import console, joined, print_json, print_more, styled_state, table


@click.command("pools")
@page_options
@json_option
def pools_command(limit: int | None, offset: int, as_json: bool) -> None:
    """Show the pools with their online nodes, taken slots and waiting jobs.

    SLOTS counts the nodes that take jobs. LOAD is (taken + waiting) / slots. Above 1, jobs wait.
    """
    pools = plugin().views.pools()
    rows = page_of(pools, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not pools:
        return console().print("No pool has a node.")
    console().print(pool_table(rows))
    return print_more(len(pools), offset + len(rows), "pool")


def pool_table(pools: Sequence[PoolView]) -> Table:
    """One row a pool."""
    rows = table(
        *("POOL", "STATE", "ONLINE", "SLOTS", "WAITING", "LOAD", "LANGUAGES"),
        right=("ONLINE", "SLOTS", "WAITING", "LOAD"),
        fold=("POOL", "LANGUAGES"),
    )
    for pool in pools:
        rows.add_row(
            *(pool.pool, styled_state(pool.state)),
            *(f"{pool.online}/{pool.nodes}", f"{pool.taken}/{pool.slots}", str(pool.waiting)),
            *(f"{pool.load:.2f}", joined(pool.langs)),
        )
    return rows


@click.command()
@click.argument("pool")
@json_option
def pause(pool: str, as_json: bool) -> None:
    """Stop starting jobs in a pool. Its waiting jobs wait, and its running jobs continue."""
    scheduler = plugin()
    scheduler.scheduler.pause_pool(pool)
    _print(scheduler.views.pool(pool), f"Pool {pool} is paused.", as_json)


@click.command()
@click.argument("pool")
@json_option
def resume(pool: str, as_json: bool) -> None:
    """Start jobs in a paused pool again. Waiting jobs take its free slots at once."""
    scheduler = plugin()
    was_paused = pool in scheduler.views.paused()
    if not was_paused and not scheduler.views.pool(pool).nodes:
        raise EmptyPool(pool=pool, with_capability="", flags="")
    scheduler.scheduler.pause_pool(pool, paused=False)
    change = "is not paused any more." if was_paused else "was not paused."
    _print(scheduler.views.pool(pool), f"Pool {pool} {change}", as_json)


def _print(pool: PoolView, change: str, as_json: bool) -> None:
    """Print the pool after a change of its state."""
    if as_json:
        return print_json(pool)
    jobs = pool.taken + pool.leaving
    return console().print(f"{change} Jobs at its nodes: {jobs:,}. Jobs in line: {pool.waiting:,}.")
