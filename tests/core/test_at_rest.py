"""A heartbeat of a node at rest finds and does each kind of work that is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from ..support.bounds import count_commands
from ..support.desk import Desk, silence
from ..support.server import milliseconds


@pytest.fixture
def beat(desk: Desk) -> Callable[[], Any]:
    """A heartbeat of a full node with no other work."""
    desk.node("idle", 1, ["other"])
    job = desk.dispatch(pool="other").job_id

    def beat() -> Any:
        return desk.beat("idle", jobs=[job], rescues=True, takes_at_once=True)

    beat()
    assert count_commands(desk.service.redis, beat) <= 16
    return beat


def test_a_heartbeat_finds_a_silent_node(desk: Desk, beat: Callable[[], Any]) -> None:
    desk.node("silent")
    silence(desk, "silent", 60_000)
    assert beat().rescue_due
    assert desk.info("silent").state == "dead"


def test_a_heartbeat_forgets_a_node_after_history_ttl(desk: Desk, beat: Callable[[], Any]) -> None:
    client = desk.service.redis
    desk.node("away")
    desk.beat("away", online=False, jobs=[])
    client.zadd("scheduler:nodes", {"away": -1})
    client.hset("scheduler:heard", "since", 1)
    beat()
    assert client.zscore("scheduler:nodes", "away") is None


def test_a_heartbeat_takes_over_the_rescue_of_a_dead_rescuer(
    desk: Desk, beat: Callable[[], Any]
) -> None:
    client = desk.service.redis
    desk.node("dead")
    silence(desk, "dead", 60_000)
    desk.service.declare_dead("dead")
    assert desk.service.claim_rescue()[0] == "dead"
    assert not beat().rescue_due
    client.zadd("scheduler:rescues", {"dead": milliseconds(client) - 1})
    assert beat().rescue_due


def test_a_heartbeat_asks_for_the_report_of_a_lost_job(desk: Desk, beat: Callable[[], Any]) -> None:
    client = desk.service.redis
    later = milliseconds(client) + 60_000
    client.zadd("scheduler:lost", {"u:1": later})
    assert not beat().rescue_due
    client.zadd("scheduler:lost", {"u:1": later - 60_001})
    assert beat().rescue_due
    client.delete("scheduler:lost")


@pytest.mark.parametrize("late", [-60_000, 1])
def test_a_heartbeat_takes_over_a_delayed_job_if_the_asked_node_does_not_come(
    desk: Desk, beat: Callable[[], Any], late: int
) -> None:
    client = desk.service.redis
    desk.node("asked")
    job = desk.send(due_ts=milliseconds(client) + 60_000).job_id
    assert 0 < desk.beat("asked").next_due_ms <= 60_000
    assert beat().next_due_ms == -1  # n2 was asked
    due = milliseconds(client) - late
    client.zadd("scheduler:delayed", {job: due})
    client.hset("scheduler:job:" + job, "due_ts", due)
    client.hset("scheduler:alarm", "at", milliseconds(client) - 200)
    answer = beat()
    assert (answer.next_due_ms > 0, desk.status(job)) == (
        (True, "delayed") if late < 0 else (False, "dispatched")
    )


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_heartbeat_removes_a_revoked_or_expired_job_from_its_line(
    desk: Desk, client: redis.Redis, beat: Callable[[], Any], is_revoked: bool
) -> None:
    now = milliseconds(client)
    job = desk.park(pool="cold", expires_ts=now + 600_000)
    if is_revoked:
        client.hset(f"scheduler:job:{job}", "reason", "revoked")
    assert count_commands(client, beat) <= 20
    client.zadd("scheduler:expiring", {job: 0 if is_revoked else now - 2000})
    beat()
    assert desk.queue("idle")[0] == "{}"
    assert client.zcard("scheduler:expiring") == 0
    client.delete("minsched.node.idle")


def test_a_heartbeat_links_lines_again(
    desk: Desk, client: redis.Redis, beat: Callable[[], Any]
) -> None:
    client.hset("scheduler:relinking", "pair zh:en", "0")
    beat()
    assert not client.exists("scheduler:relinking")


def test_a_heartbeat_notices_a_clock_that_was_set_back(
    desk: Desk, client: redis.Redis, beat: Callable[[], Any]
) -> None:
    ahead = milliseconds(client) + 3_600_000
    desk.node("other", pools=["asr"])
    client.zadd("scheduler:nodes", {"other": ahead})
    client.hset("scheduler:heard", "last", ahead)
    beat()
    assert client.zscore("scheduler:nodes", "other") < ahead
