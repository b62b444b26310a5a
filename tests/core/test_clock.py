"""The clock of Redis is set back by an hour, for example by a failover. Redis was away for long."""

from __future__ import annotations

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NoAvailableNode, NodeIdInUse, Settings

from ..support.desk import Desk, silence
from ..support.fleet import wait_for

HOUR = 3_600_000  # ms
QUICK = Settings(node_ttl=0.4, heartbeat_interval=0.1, lease=1)


@pytest.fixture
def quick(client: redis.Redis) -> Desk:
    """A node is dead after 0.4 s without a heartbeat."""
    return Desk(MinimalSchedulerService(client, QUICK))


def set_back(desk: Desk, *node_ids: str) -> None:
    """Afterwards the stored times are in the future."""
    client, keys = desk.service.redis, desk.service.keys
    for node_id in node_ids:
        client.hincrby(keys("node_info", node_id), "last_heartbeat_ts", HOUR)
        client.zincrby(keys("nodes"), HOUR, node_id)
        for job_id in client.zrange(keys("node_jobs", node_id), 0, -1):
            client.zincrby(keys("node_jobs", node_id), HOUR, job_id)
    for field in ("last", "since"):
        client.hincrby(keys("heard"), field, HOUR)
    for name in ("rescues", "lost"):
        for member in client.zrange(keys(name), 0, -1):
            client.zincrby(keys(name), HOUR, member)


def hear_for(desk: Desk, seconds: float, node_id: str = "b") -> None:
    end = desk.views.now() + 1000 * seconds

    def is_over() -> bool:
        desk.beat(node_id)
        return desk.views.now() > end

    wait_for(is_over)


def test_a_node_that_dies_as_the_clock_is_set_back_is_rescued(quick: Desk) -> None:
    quick.node("a")
    quick.node("b")
    hear_for(quick, 0.5)
    quick.beat("a")
    job = quick.send(preferred_node="a")
    client, keys = quick.service.redis, quick.service.keys
    client.lmove(keys("node_queue", "a"), keys("job_queue", job.job_id), "RIGHT", "LEFT")
    set_back(quick, "a", "b")

    def is_rescued() -> bool:
        quick.beat("b")
        return quick.status(job.job_id) == "dispatched" and quick.taken("b") == 1

    wait_for(is_rescued, patience=5)
    assert not quick.info("a").online
    assert quick.taken("a") == 0
    assert client.zscore(keys("nodes"), "b") <= quick.views.now()


def test_a_postponed_rescue_is_due_after_the_clock_was_set_back(quick: Desk) -> None:
    quick.node("a")
    quick.node("b")
    hear_for(quick, 0.5)
    client, keys = quick.service.redis, quick.service.keys
    client.lpush(keys("node_queue", "a"), "{}")
    silence(quick, "a", 60_000)
    quick.service.declare_dead("a")
    set_back(quick, "b")
    quick.beat("b")
    assert client.zscore(keys("rescues"), "a") < quick.views.now() + 11_000
    client.delete(keys("node_queue", "a"))


def test_a_node_registers_again_after_the_clock_was_set_back(quick: Desk) -> None:
    quick.node("a", instance="one")
    quick.beat("a", instance="one")
    set_back(quick, "a")

    def registers() -> bool:
        try:
            quick.node("a", instance="two")
        except NodeIdInUse:
            return False
        return True

    assert not registers()
    wait_for(registers, patience=5)
    quick.beat("a", instance="two")
    set_back(quick, "a")

    def is_declared() -> bool:
        try:
            quick.service.declare_dead("a")
        except NodeIdInUse:
            return False
        return True

    wait_for(is_declared, patience=5)


def test_after_redis_was_away_dispatch_waits_for_heartbeats(quick: Desk) -> None:
    """All nodes look silent. Later, a node without a new heartbeat is dead."""
    client, keys = quick.service.redis, quick.service.keys
    for node_id in ("a", "b"):
        quick.node(node_id, 2)
        silence(quick, node_id, 60_000)
    client.hset(keys("heard"), mapping={"last": quick.views.now() - 60_000, "since": 1})
    jobs = [quick.dispatch() for _ in range(2)]
    assert {job.node_id for job in jobs} == {"a", "b"}

    def is_refused() -> bool:
        try:
            quick.service.release_job(quick.dispatch().job_id)
        except NoAvailableNode:
            return True
        return False

    wait_for(is_refused, patience=5)
    for job in jobs:
        quick.service.release_job(job.job_id)
    for node_id in ("a", "b"):
        quick.beat(node_id)
        assert quick.dispatch(preferred_node=node_id).node_id == node_id
