"""Unusable events and counters stop no action of the scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery

from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair
from celery_minsched.monitor.queries import Views
from celery_minsched.web.events_page import events_page

from ..support.commands import run_with
from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.server import Server

EVENTS, COUNTS, POOL_COUNTS = "scheduler:events", "scheduler:counts", "scheduler:pool:asr:counts"
LARGEST = 2**64 - 1
LARGEST_NUMBER = 2**63 - 1


def the_largest_id(client: redis.Redis) -> None:
    client.xadd(EVENTS, {"a": "b"}, f"{LARGEST}-{LARGEST}")


def the_largest_id_of_an_empty_stream(client: redis.Redis) -> None:
    the_largest_id(client)
    client.xdel(EVENTS, f"{LARGEST}-{LARGEST}")


def an_id_of_the_year_33658(client: redis.Redis) -> None:
    client.xadd(EVENTS, {"kind": "node_joined"}, "1000000000000000-0")


def another_type(client: redis.Redis) -> None:
    client.delete(EVENTS)
    client.set(EVENTS, "x")


UNUSABLE = (
    the_largest_id,
    the_largest_id_of_an_empty_stream,
    an_id_of_the_year_33658,
    another_type,
)


@pytest.mark.parametrize("spoil", UNUSABLE)
def test_an_unusable_stream_of_events_stops_no_action(
    spoil: Callable[[redis.Redis], None], desk: Desk, client: redis.Redis
) -> None:
    """Each action adds an event to a new stream."""

    def emitted(action: Callable[[], Any]) -> str:
        spoil(client)
        action()
        now = desk.views.now()
        [event] = desk.views.events()
        assert now - 60_000 < event.ts <= now
        return event.kind

    assert emitted(lambda: desk.node("n1", 1)) == "node_joined"
    running = desk.send()
    waiting: list[str] = []
    assert emitted(lambda: waiting.append(desk.park(task_id="t"))) == "job_waited"
    assert desk.status(waiting[0]) == "waiting"
    assert emitted(lambda: desk.service.drain_node("n1")) == "node_drained"
    assert emitted(lambda: desk.service.drain_node("n1", False)) == "node_undrained"
    assert emitted(lambda: desk.service.pause_pool("asr")) == "pool_paused"
    assert emitted(lambda: desk.service.pause_pool("asr", False)) == "pool_resumed"
    silence(desk, "n1", 60_000)
    assert emitted(lambda: desk.service.declare_dead("n1")) == "node_died"
    desk.node("n1", 1)
    assert running.node_id == "n1"


def test_a_clock_that_was_set_back_by_hours_loses_no_event(desk: Desk, client: redis.Redis) -> None:
    client.xadd(EVENTS, {"kind": "node_left"}, f"{desk.views.now() + 6 * 3_600_000}-0")
    desk.node("n1")
    assert [event.kind for event in desk.views.events()] == ["node_left", "node_joined"]


def no_number(client: redis.Redis, key: str, field: str) -> None:
    client.hset(key, field, "x")


def the_largest_number(client: redis.Redis, key: str, field: str) -> None:
    client.hset(key, field, LARGEST_NUMBER)


def no_hash(client: redis.Redis, key: str, field: str) -> None:
    client.delete(key)
    client.set(key, "x")


SPOILT = (no_number, the_largest_number, no_hash)


@pytest.mark.parametrize("spoil", SPOILT)
def test_an_unusable_counter_stops_no_action(
    spoil: Callable[[redis.Redis, str, str], None], desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    spoil(client, POOL_COUNTS, "least_loaded")
    job = desk.send(session_id="u1")
    assert (job.node_id, desk.views.counts("asr")["least_loaded"]) == ("n1", 1)
    spoil(client, POOL_COUNTS, "busy")
    spoil(client, "scheduler:waiting_counts", "asr")
    waiting = desk.park(session_id="u2", task_id="t2")
    assert (desk.status(waiting), desk.views.counts("asr")["busy"]) == ("waiting", 1)
    spoil(client, POOL_COUNTS, "waited_ms")
    spoil(client, POOL_COUNTS, "finished")
    spoil(client, "scheduler:waiting_counts", "asr")
    desk.complete(job)
    assert desk.status(waiting) == "dispatched"
    client.delete("scheduler:waiting_counts", POOL_COUNTS)  # adding 0 ms does not overflow
    spoil(client, COUNTS, "node_deaths")
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    assert desk.views.counts()["node_deaths"] == 1
    desk.node("n1", 1)


def test_an_unreadable_number_of_rescues_stops_no_rescue(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    job = desk.send()
    client.rpop("minsched.node.n1")
    desk.beat("n1", jobs=[job.job_id])
    client.hset(f"scheduler:job:{job.job_id}", mapping={"rescues": "x"})
    client.lpush(f"minsched.job.{job.job_id}", "{}")  # as if a rescuer had moved its message
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    desk.node("n2", 1)
    desk.service.rescue_node("n1")
    assert desk.info("n2").current_jobs == 1


class TestCheck:
    @pytest.mark.parametrize("spoil", [the_largest_id, an_id_of_the_year_33658, another_type])
    def test_an_unusable_stream_is_named_and_repaired(
        self, spoil: Callable[[redis.Redis], None], desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1")
        spoil(client)
        checker = Checker(desk.views)
        violations = checker.check(0)
        assert [(violation.code, violation.keys) for violation in violations] == [
            ("unusable_events", (EVENTS,))
        ]
        assert repair(desk.service, checker, violations, 0) == []
        assert client.exists(EVENTS) == 0

    @pytest.mark.parametrize("spoil", SPOILT)
    @pytest.mark.parametrize("key", [COUNTS, POOL_COUNTS])
    def test_an_unusable_counter_is_named_and_repaired(
        self,
        key: str,
        spoil: Callable[[redis.Redis, str, str], None],
        desk: Desk,
        client: redis.Redis,
    ) -> None:
        desk.node("n1")
        client.hset(key, "lost", 7)
        spoil(client, key, "finished")
        checker = Checker(desk.views)
        violations = checker.check(0)
        assert [(violation.code, violation.keys) for violation in violations] == [
            ("unusable_counter", (key,))
        ]
        assert repair(desk.service, checker, violations, 0) == []
        assert client.hgetall(key) == ({} if spoil is no_hash else {"lost": "7"})


@pytest.fixture
def app(server: Server) -> Celery:
    return make_app(server.url)


@pytest.mark.parametrize("spoil", [the_largest_id, an_id_of_the_year_33658])
def test_an_event_of_the_far_future_is_shown(
    spoil: Callable[[redis.Redis], None], desk: Desk, client: redis.Redis, app: Celery
) -> None:
    """Its time is a date for Python and browsers. The events before it are shown too."""
    desk.node("n1")
    spoil(client)
    table: Any = events_page(Views(client, desk.service.keys))
    first, second = table["tables"]["events"]
    assert (second["state"], second["fields"]) == ("node_joined", {"node": "n1"})
    assert desk.views.now() < first["ts"] <= 8.64e15
    answer = run_with(app, "events")
    assert answer.exit_code == 0, answer.output
    assert [line[:4] for line in answer.output.splitlines()][1:] == ["9999"]
    assert len(json.loads(run_with(app, "events", "--json").output)) == 2
    client.delete(EVENTS)


def test_a_counter_that_is_no_number_is_not_shown(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    client.hset(POOL_COUNTS, mapping={"finished": "x", "lost": 7})
    client.set(COUNTS, "x")
    assert desk.views.counts_of(["", "asr"]) == {"": {}, "asr": {"lost": 7}}
    client.delete(POOL_COUNTS, COUNTS)
