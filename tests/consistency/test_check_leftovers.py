"""Keys without a TTL whose owner is gone are violations that a repair mends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair

from ..support.desk import Desk

LATER = 10**15

Break = Callable[[redis.Redis], Any]

#: A change of Redis, the code of its violation, and the key that the violation names.
LEFTOVERS: dict[str, tuple[Break, str, str]] = {
    "the counters of a pool without nodes": (
        lambda r: r.hset("scheduler:pool:gone:counts", "finished", 7),
        "counts_stay",
        "scheduler:pool:gone:counts",
    ),
    "the pause of a pool without nodes": (
        lambda r: r.sadd("scheduler:paused", "gone"),
        "pause_stays",
        "scheduler:paused",
    ),
    "a session without a TTL": (
        lambda r: r.persist("scheduler:session:u1"),
        "key_stays",
        "scheduler:session:u1",
    ),
    "the fair turns of a pool without a TTL": (
        lambda r: r.zadd("scheduler:pool:gone:turns:0", {"now": 7}),
        "key_stays",
        "scheduler:pool:gone:turns:0",
    ),
    "the fair turns of a language pair without a TTL": (
        lambda r: r.zadd("scheduler:lang:zh:en:turns:0", {"now": 7}),
        "key_stays",
        "scheduler:lang:zh:en:turns:0",
    ),
    "a node's searches without a TTL": (
        lambda r: r.hset("scheduler:node:searches:gone", "asr\t", "end"),
        "key_stays",
        "scheduler:node:searches:gone",
    ),
    "a task whose job is gone": (
        lambda r: r.set("scheduler:task:lost", "u:999"),
        "task_stays",
        "scheduler:task:lost",
    ),
    "a task whose job has ended": (
        lambda r: r.persist("scheduler:task:ended"),
        "task_stays",
        "scheduler:task:ended",
    ),
    "the key of a waiting job's task has a TTL": (
        lambda r: r.expire("scheduler:task:waiting", 1000),
        "task_lapses",
        "scheduler:task:waiting",
    ),
    "the key of a delayed job's task is gone": (
        lambda r: r.delete("scheduler:task:delayed"),
        "task_lapses",
        "scheduler:task:delayed",
    ),
}


@pytest.fixture
def lively(desk: Desk) -> Desk:
    """An ended job, a running job, a waiting job and a delayed job."""
    desk.node("n1", 1)
    desk.complete(desk.dispatch(task_id="ended", session_id="u1"))
    desk.dispatch(task_id="running", session_id="u1")
    desk.park(task_id="waiting")
    desk.send(task_id="delayed", due_ts=LATER)
    return desk


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_leftover_is_named_and_repaired(
    service: MinimalSchedulerService, lively: Desk, client: redis.Redis, name: str
) -> None:
    leave, code, key = LEFTOVERS[name]
    checker = Checker(lively.views)
    assert checker.check(pause=0) == []
    leave(client)
    [violation] = checker.check(pause=0)
    assert (violation.code, violation.keys[0]) == (code, key)
    assert repair(service, checker, [violation], pause=0) == []


def test_a_task_has_its_job_again_after_the_repair_of_its_key(
    service: MinimalSchedulerService, lively: Desk, client: redis.Redis
) -> None:
    client.delete("scheduler:task:delayed")
    checker = Checker(lively.views)
    assert repair(service, checker, checker.check(pause=0), pause=0) == []
    assert client.ttl("scheduler:task:delayed") == -1
    assert service.revoke_tasks(["delayed"], "n1")
    client.rpop("minsched.node.n1")


def test_the_counters_of_a_gone_pool_expire_after_the_repair(
    service: MinimalSchedulerService, lively: Desk, client: redis.Redis
) -> None:
    client.hset("scheduler:pool:gone:counts", "finished", 7)
    client.set("scheduler:task:lost", "u:999")
    client.persist("scheduler:session:u1")
    checker = Checker(lively.views)
    assert repair(service, checker, checker.check(pause=0), pause=0) == []
    for key in ("pool:gone:counts", "task:lost", "session:u1"):
        assert client.pttl(f"scheduler:{key}") > 0


def test_a_task_with_two_jobs_is_sound(lively: Desk) -> None:
    lively.park(task_id="waiting")  # a copy of the message
    lively.send(task_id="delayed", due_ts=LATER)
    assert Checker(lively.views).check() == []


def test_keys_of_other_types_are_no_leftovers(lively: Desk, client: redis.Redis) -> None:
    client.set("scheduler:session:own", "x")
    client.hset("scheduler:task:own", "field", "x")
    assert Checker(lively.views).check() == []
