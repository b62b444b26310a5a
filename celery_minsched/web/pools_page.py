"""The page of all pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..monitor.models import PoolView
from ..monitor.queries import Views
from .page_data import PageData, first_names
from .table_request import FIRST_ROWS, TableRequest, natural_key, select_rows

SORT_KEYS: dict[str, Callable[[PoolView], Any]] = {
    "pool": lambda pool: natural_key(pool.pool),
    "state": lambda pool: _state(pool),
    "slots": lambda pool: pool.taken / max(pool.slots, 1),
    "waiting": lambda pool: pool.waiting,
    "load": lambda pool: pool.load,
    "online": lambda pool: pool.online,
    "languages": lambda pool: pool.langs,
}


def pools_page(views: Views, _subject: str = "", request: TableRequest = FIRST_ROWS) -> PageData:
    """All pools."""
    page = select_rows(views.pools(), request, SORT_KEYS, _searched_text)
    rows = [_row(pool) for pool in page.rows]
    return {"tables": {"pools": rows}, "numbers": {"pools": page.numbers}}


def _row(pool: PoolView) -> dict[str, Any]:
    return {
        "id": pool.pool,
        "state": _state(pool),
        "online": pool.online,
        "nodes": pool.nodes,
        "taken": pool.taken,
        "slots": pool.slots,
        "waiting": pool.waiting,
        "load": round(pool.load, 2),
        "langs": first_names(pool.langs),
    }


def _searched_text(pool: PoolView) -> str:
    return " ".join((pool.pool, *pool.langs))


def _state(pool: PoolView) -> str:
    return pool.state if pool.paused or pool.slots else "no slots"
