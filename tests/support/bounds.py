"""The number of commands that a call runs. It does not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import redis

from .desk import Desk

MOST = 6000  # commands of a call: 96 lines, about ten commands each, and some more


def count_commands(client: redis.Redis, call: Callable[[], object]) -> int:
    """The number of commands that a call runs in the server."""
    client.config_resetstat()
    call()
    stats = client.info("commandstats")
    others = ("cmdstat_config", "cmdstat_info", "cmdstat_evalsha", "cmdstat_eval")
    return sum(int(stat["calls"]) for name, stat in stats.items() if not name.startswith(others))


def beat_until_done(desk: Desk, client: redis.Redis, node_id: str) -> int:
    """Send heartbeats until no heartbeat is due at once.

    Each has a bounded cost. Returns their number.
    """
    for number in count(1):
        due = [0]

        def beat(due: list[int] = due) -> None:
            due[0] = desk.beat(node_id).next_due_ms

        assert count_commands(client, beat) < MOST
        if due[0] != 0:
            return number
    raise AssertionError
