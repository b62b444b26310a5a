"""Jobs that wait: order, priority, delay, revocation and expiry."""

from __future__ import annotations

import json

import pytest
import redis

from celery_minsched import (
    Backlogged,
    EmptyPool,
    MinimalSchedulerService,
    NoAvailableNode,
    NodeMismatch,
    Settings,
)
from celery_minsched.core.models import DispatchResponse

from ..support.desk import Desk, running_at


def messages_in_order(desk: Desk, running: DispatchResponse, jobs: int) -> list[str]:
    """The messages of waiting jobs in the order in which they get the only slot of node n1."""
    messages = []
    for _ in range(jobs):
        desk.complete(running)
        [job_id] = running_at(desk, "n1")
        running = DispatchResponse(node_id="n1", job_id=job_id)
        messages.append(desk.take("n1"))
    return messages


class TestWaiting:
    def test_a_freed_slot_goes_to_the_first_job_in_line(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        first, second = desk.park("first"), desk.park("second")
        assert [desk.status(job) for job in (first, second)] == ["waiting", "waiting"]
        desk.complete(running)
        assert desk.queue("n1") == ["first"]
        assert (desk.status(first), desk.status(second)) == ("dispatched", "waiting")

    def test_a_new_node_takes_waiting_jobs(self, desk: Desk) -> None:
        job = desk.park("message")
        assert [line.possible for line in desk.views.lines()] == [False]
        desk.node("n1", 1)
        assert (desk.queue("n1"), desk.status(job)) == (["message"], "dispatched")

    def test_a_message_is_sent_with_its_job_s_id_in_the_step_that_places_it(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 1)
        demands = [{"session_id": 'a"\\ü'}, {"session_id": "u2", "due_ts": 10**15}, {"priority": 9}]
        placed, delayed, waits = desk.send_many(demands, "text")
        assert [job.chosen_by for job in (placed, delayed, waits)] == [
            "least_loaded",
            "delayed",
            "busy",
        ]
        keys = desk.service.keys
        lists = [
            keys("node_queue", "n1"),
            keys("job_queue", delayed.job_id),
            keys("job_queue", waits.job_id) + keys.suffixes[3],
        ]
        assert set(client.keys("minsched.*")) == set(lists)
        for name, job in zip(lists, (placed, delayed, waits), strict=True):
            [message] = client.lrange(name, 0, -1)
            assert json.loads(message) == {"text": "text", "job_id": job.job_id}

    def test_a_call_made_again_sends_nothing_again(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        demands = [{"task_id": f"t{n}", "token": f"one call {n}"} for n in range(3)]
        first = desk.send_many(demands)
        again = desk.send_many(demands)
        assert [job.job_id for job in again] == [job.job_id for job in first]
        assert len(desk.queue("n1")) == 1
        assert sorted(client.llen(key) for key in client.keys("minsched.job.*")) == [1, 1]

    def test_of_many_jobs_those_before_the_refused_one_are_sent(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 2)
        with pytest.raises(EmptyPool):
            desk.send_many([{}, {"pool": "none", "when_full": "error"}, {}])
        assert (desk.taken("n1"), len(desk.queue("n1"))) == (1, 1)

    def test_a_job_without_a_message_cannot_wait(self, desk: Desk) -> None:
        desk.node("n1", 1)
        assert desk.dispatch(when_full="wait", due_ts=10**15).node_id == "n1"
        with pytest.raises(NoAvailableNode):
            desk.dispatch(when_full="wait")

    def test_busy_and_impossible_are_different_errors(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        assert desk.send().chosen_by == "busy"
        assert desk.send(capabilities=["gpu"]).chosen_by == "impossible"
        assert desk.send(pool="mt").chosen_by == "impossible"

    def test_a_line_is_bounded(self, client: redis.Redis) -> None:
        desk = Desk(MinimalSchedulerService(client, Settings(max_waiting=2)))
        desk.node("n1", 1)
        desk.dispatch()
        desk.park(), desk.park()
        before = client.dbsize()
        with pytest.raises(Backlogged, match="2 jobs wait"):
            desk.send()
        assert client.dbsize() == before

    def test_a_job_with_a_capability_does_not_block_the_next_ones(self, desk: Desk) -> None:
        desk.node("plain", 1)
        desk.node("gpu", 1, caps=["gpu"])
        desk.dispatch(preferred_node="gpu")
        running = desk.dispatch()
        special, plain = desk.park("special", capabilities=["gpu"]), desk.park("plain")
        desk.complete(running)
        assert (desk.status(special), desk.status(plain)) == ("waiting", "dispatched")
        assert desk.queue("plain") == ["plain"]

    def test_the_order_is_priority_and_then_age(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        for name, priority in (("low", 9), ("first", 0), ("second", 0)):
            desk.send(name, priority=priority)
        assert messages_in_order(desk, running, 3) == ["first", "second", "low"]

    def test_a_key_that_floods_waits_behind_its_own_jobs(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        for number in range(6):
            desk.park(f"flood {number}", fairness_key="flood")
        for number in range(3):
            desk.park(f"other {number}", fairness_key="other")
        order = messages_in_order(desk, running, 6)
        assert sorted(order) == sorted(f"{key} {n}" for n in range(3) for key in ("flood", "other"))

    def test_lines_that_compete_for_a_slot_take_turns(self, desk: Desk) -> None:
        desk.node("n1", 1, ["asr", "mt"])
        running = desk.dispatch()
        for number in range(3):
            desk.park(f"asr {number}")
        for number in range(3):
            desk.park(f"mt {number}", pool="mt")
        order = [message.split()[0] for message in messages_in_order(desk, running, 6)]
        assert order in (["asr", "mt"] * 3, ["mt", "asr"] * 3)

    def test_a_job_that_requires_a_node_waits_for_it_while_it_is_alive(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.dispatch(session_id="u1")
        desk.node("b", 1)
        job = desk.park("mine", session_id="u1", affinity="require")
        assert desk.status(job) == "waiting"  # although b is free
        desk.service.drain_node("a")
        assert (desk.status(job), desk.queue("b")) == ("dispatched", ["mine"])

    def test_a_delayed_job_holds_no_slot_before_it_is_due(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 1)
        seconds, micro = client.time()
        due = seconds * 1000 + micro // 1000 + 3_600_000
        job = desk.send("later", due_ts=due)
        assert (job.chosen_by, desk.taken("n1")) == ("delayed", 0)
        assert 0 < desk.beat("n1").next_due_ms <= 3_600_000
        client.zadd(desk.service.keys("delayed"), {job.job_id: 1})
        client.hset(desk.service.keys("job", job.job_id), "due_ts", 1)
        desk.beat("n1")
        assert (desk.taken("n1"), desk.queue("n1")) == (1, ["later"])

    def test_a_waiting_job_is_revoked(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        job = desk.park("message", task_id="t1")
        assert desk.service.revoke_tasks(["t1"], "n1")
        assert not desk.service.revoke_tasks(["t1"], "n1")
        assert desk.queue("n1") == ["message"]  # the worker reports it to the caller
        assert (desk.taken("n1"), desk.status(job), desk.views.lines()) == (1, "failed", [])
        assert desk.service.claim_job(job, "n1") == ("discard", {})

    def test_a_waiting_job_expires(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        job = desk.park("message", expires_ts=10)
        desk.beat("n1")
        assert (desk.queue("n1"), desk.status(job), desk.views.lines()) == (
            ["message"],
            "failed",
            [],
        )

    def test_a_job_is_returned_to_its_line(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("a", 1)
        job = desk.dispatch()
        desk.node("b", 1)
        desk.service.drain_node("a")
        client.lpush(desk.service.keys("job_queue", job.job_id), "again")
        assert desk.service.place_jobs([job.job_id], handed_back_by="a") == ["dispatched"]
        assert (desk.taken("a"), desk.taken("b"), desk.queue("b")) == (0, 1, ["again"])
        with pytest.raises(NodeMismatch):
            desk.complete(job)
