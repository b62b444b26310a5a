"""Many simultaneous callers never get the same slot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from celery_minsched import (
    DispatchRequest,
    MinimalSchedulerService,
    NoAvailableNode,
    RegisterNodeRequest,
)
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.queries import Views

from ..support.server import Server

SLOTS = [31, 20, 15, 12, 9, 7, 4, 2]
DISPATCHERS = 64


@pytest.mark.parametrize("run", range(20))
def test_simultaneous_callers_get_exactly_100_of_100_slots(server: Server, run: int) -> None:
    service = MinimalSchedulerService(server.client())
    for number, slots in enumerate(SLOTS):
        service.register_node(
            RegisterNodeRequest(node_id=f"n{number}", max_jobs=slots, pools_json='["asr"]')
        )

    def ask(_: int) -> list[str]:
        with server.client() as client:  # its own connection, as in another process
            mine = MinimalSchedulerService(client)
            node_ids = []
            for _ in range(3):
                try:
                    node_ids.append(mine.dispatch_task(DispatchRequest(pool="asr")).node_id)
                except NoAvailableNode:
                    continue
            return node_ids

    with ThreadPoolExecutor(DISPATCHERS) as pool:
        node_ids = [node_id for nodes in pool.map(ask, range(DISPATCHERS)) for node_id in nodes]
    assert len(node_ids) == sum(SLOTS) == 100
    assert [node_ids.count(f"n{number}") for number in range(len(SLOTS))] == SLOTS
    assert Checker(Views(service.redis, service.keys)).check() == []
