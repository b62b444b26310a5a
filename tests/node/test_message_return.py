"""A rescue, a shutdown and a requeue place a message again without a change."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery, signals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kombu.transport.redis import Channel

from celery_minsched.consistency.checker import Checker
from celery_minsched.core.keys import Keys
from celery_minsched.plugin.messages import priority_of, read_message
from celery_minsched.plugin.request_place import empty_place
from node_agent.held_job import HeldJob
from node_agent.liveness import Liveness
from node_agent.requeue import park_messages
from node_agent.slots import Slots

from ..support.desk import Desk
from ..support.fleet import FAST, Fleet, checked, make_app, wait_for
from ..support.server import Server

#: Priorities of each type that kombu accepts, and values that it reads as 0.
PRIORITIES = [
    *(None, 0, 3, 6, 9, -1, 42, True, "6", " 9 ", "high", "", "6.5", 6.0, 5.9, -0.5, [], {}),
]
NODE_QUEUE = "minsched.node.n1"


def note_unacked(client: redis.Redis, raw: str) -> None:
    """Add the message to the unacknowledged messages of n1, as the node does."""
    job_id = read_message(raw)["headers"]["minsched"]["job_id"]
    entry = json.dumps([json.loads(raw), "", f"minsched.job.{job_id}"])
    client.hset("minsched.unacked.n1", f"tag-{job_id}", entry)
    client.zadd("minsched.unacked_index.n1", {f"tag-{job_id}": 1})


@contextmanager
def publish_handler(new_properties: dict[str, Any], new_headers: dict[str, Any]) -> Iterator[None]:
    """Context manager: a handler of ``before_task_publish`` that changes messages."""

    def change(headers: dict[str, Any], properties: dict[str, Any], **_: Any) -> None:
        headers.update(new_headers)
        properties.update(new_properties)

    signals.before_task_publish.connect(change)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(change)


@pytest.mark.parametrize("priority", PRIORITIES, ids=repr)
def test_priorities_are_parsed_like_in_kombu(priority: object) -> None:
    channel = Channel.__new__(Channel)
    message = {"properties": {"priority": priority}}
    assert priority_of(message) == channel._get_message_priority(message)
    assert priority_of({}) == priority_of({"properties": None}) == 0


@pytest.mark.parametrize("steps", [(0, 3, 6, 9), (0,), (2, 5), tuple(range(10))])
def test_the_lists_of_a_queue_have_the_names_of_kombu(steps: tuple[int, ...]) -> None:
    channel = Channel.__new__(Channel)
    channel.priority_steps = steps
    keys = Keys(priority_steps=steps)
    for priority in range(10):
        assert f"q{keys.priority_suffix(priority)}" == channel._q_for_pri("q", priority)


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = make_app(server.url)
    yield app
    app.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    priority=st.sampled_from(PRIORITIES),
    by_handler=st.booleans(),
    headers=st.dictionaries(st.sampled_from(["team", "x-trace", "é"]), st.text(), max_size=2),
    options=st.fixed_dictionaries(
        {},
        optional={
            "compression": st.sampled_from(["zlib", "bzip2"]),
            "serializer": st.sampled_from(["json", "pickle"]),
            "expires": st.just(1000),
            "reply_to": st.text(max_size=5),
            "task_id": st.uuids() | st.just("mine"),
        },
    ),
    args=st.lists(st.text() | st.floats(allow_nan=False) | st.just(uuid.UUID(int=1)), max_size=3),
)
def test_a_parked_message_is_placed_again_unchanged(
    app: Celery,
    client: redis.Redis,
    priority: Any,
    by_handler: bool,
    headers: dict[str, str],
    options: dict[str, Any],
    args: list[Any],
) -> None:
    client.flushall()
    desk = Desk(app.minsched.scheduler)
    desk.node("n1", 1)
    priority_option = {} if by_handler else {"priority": priority}
    with publish_handler({"priority": priority} if by_handler else {}, {}):
        app.send_task(
            "t", args, minsched={"pool": "asr"}, headers=headers, **priority_option, **options
        )
        waits = app.send_task("w", minsched={"pool": "asr"}, **priority_option)
    raw = client.rpop(NODE_QUEUE)
    assert raw is not None
    first, second = (
        json.loads(raw)["headers"]["minsched"]["job_id"],
        app.minsched.find_job(waits.id),
    )
    for number in range(2):  # the first and a second delivery
        desk.service.claim_job(first, "n1")
        note_unacked(client, raw)
        assert list(park_messages(app.minsched, "n1")) == [first]
        suffix = client.hget(f"scheduler:job:{first}", "suffix") or ""
        assert client.lrange(f"minsched.job.{first}{suffix}", 0, -1) != []
        assert desk.service.place_jobs([first], "n1") == ["dispatched"]
        back = client.rpop(NODE_QUEUE)
        sent, returned = json.loads(raw), json.loads(back)
        assert returned["headers"].pop("redelivered") is True
        assert returned["properties"]["delivery_info"].pop("redelivered") is True
        if number:
            sent["headers"].pop("redelivered")
            sent["properties"]["delivery_info"].pop("redelivered")
        assert returned == sent
        raw = back
    client.lpush(NODE_QUEUE, raw)  # an undelivered message is not marked as redelivered
    assert list(park_messages(app.minsched, "n1")) == [first]
    assert desk.service.place_jobs([first], "n1") == ["dispatched"]
    assert client.lrange(NODE_QUEUE, 0, -1) == [raw]
    assert Checker(desk.views).check() == []
    assert second.status == "waiting"


def test_changes_of_a_publish_handler_apply_to_the_job(app: Celery, client: redis.Redis) -> None:
    due = datetime(2100, 1, 1, tzinfo=UTC)
    times = {"eta": due.isoformat(), "expires": due.replace(year=2101).isoformat()}
    with publish_handler({"priority": 9}, times):
        result = app.send_task("t", minsched={"pool": "asr"})
    job = app.minsched.find_job(result.id)
    assert job.status == "delayed"
    record = client.hgetall(f"scheduler:job:{job.job_id}")
    assert (record["due_ts"], record["band"]) == (str(int(due.timestamp() * 1000)), "3")
    assert record["suffix"] == "\x06\x169"
    assert int(record["expires_ts"]) > int(record["due_ts"])


def test_a_message_is_parked_although_redis_lost_its_job(app: Celery, client: redis.Redis) -> None:
    desk = Desk(app.minsched.scheduler)
    desk.node("n1", 2)
    results = [app.send_task("t", minsched={"pool": "asr"}, priority="6") for _ in range(2)]
    for result, is_reported in zip(results, (False, True), strict=True):
        job_id = app.minsched.find_job(result.id).job_id
        client.delete(f"scheduler:job:{job_id}", f"scheduler:task:{result.id}")
        client.zrem("scheduler:node:jobs:n1", job_id)
        if is_reported:
            desk.beat("n1", jobs=[job_id])  # creates the job's record again
    jobs = sorted(set(park_messages(app.minsched, "n1")))
    assert len(jobs) == 2
    desk.service.place_jobs(jobs, "n1")
    assert {desk.status(job_id) for job_id in jobs} == {"dispatched"}
    assert Checker(desk.views).check() == []


def test_an_acknowledged_message_is_not_parked(app: Celery, client: redis.Redis) -> None:
    desk = Desk(app.minsched.scheduler)
    desk.node("n1", 1)
    app.send_task("t", minsched={"pool": "asr"})
    raw = client.rpop(NODE_QUEUE)
    job_id = read_message(raw)["headers"]["minsched"]["job_id"]
    note_unacked(client, raw)
    client.sadd("minsched.acked.n1", f"tag-{job_id}")
    assert list(park_messages(app.minsched, "n1")) == []
    assert client.keys("minsched.job.*") == []
    desk.service.claim_job(job_id, "n1", f"tag-{job_id}")
    assert Checker(desk.views).check() == []


@pytest.mark.parametrize("fault", ["connection closed", "no answer to the claim"])
def test_a_stopping_node_hands_back_a_job_that_it_dropped(
    app: Celery, client: redis.Redis, fault: str
) -> None:
    """The node claims the job after its first hand-back."""
    desk = Desk(app.minsched.scheduler)
    desk.node("n1", 1)
    result = app.send_task("t", minsched={"pool": "asr"})
    job_id = app.minsched.where(result.id).job_id
    note_unacked(client, client.rpop(NODE_QUEUE))
    desk.service.claim_job(job_id, "n1", f"tag-{job_id}")
    slots = Slots(desk.service, "n1", lambda: 1)
    slots.held[job_id] = HeldJob(f"tag-{job_id}", "claim")
    slots.closing = True
    slots.drop_unstarted() if fault == "connection closed" else slots.drop(job_id)
    desk.beat("n1", online=False, state="stopping")
    liveness = Liveness(app.minsched, slots, None, lambda: False)  # type: ignore[arg-type]
    wait_for(lambda: liveness.look() and desk.status(job_id) == "waiting", patience=5)
    assert not slots.unstarted()
    assert Checker(desk.views).check() == []


class TestRequeued:
    """A task rejects its message with ``Reject(requeue=True)``."""

    def test_a_requeued_job_joins_the_end_of_its_line(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.send("first")
        second, third = desk.park("second"), desk.park("third")
        self.requeue(desk, first.job_id)
        assert desk.queue("n1") == ["second"]
        for job_id, text in ((second, "third"), (third, "first")):
            desk.take("n1")
            self.finish(desk, job_id)
            assert desk.queue("n1") == [text]

    def test_a_requeued_job_takes_the_next_turn_of_its_fairness_key(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.send("a1", fairness_key="a")
        for text in ("a2", "a3", "b1"):
            desk.park(text, fairness_key=text[0])
        self.requeue(desk, first.job_id)
        order = []
        for _ in range(4):
            [job_id] = desk.service.redis.zrange("scheduler:node:jobs:n1", 0, -1)
            order.append(desk.take("n1"))
            self.finish(desk, job_id)
        assert order == ["a2", "b1", "a3", "a1"]

    def test_a_requeued_job_runs_at_once_if_no_job_waits(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.send("first")
        for _ in range(3):
            self.requeue(desk, first.job_id)
            assert desk.queue("n1") == ["first"]

    def test_a_requeued_job_frees_its_slot_for_another_line(self, desk: Desk) -> None:
        desk.node("n1", 1, ["asr", "mt"])
        first = desk.send("first")
        desk.park("other", pool="mt")
        self.requeue(desk, first.job_id)
        assert desk.queue("n1") == ["other"]
        assert desk.status(first.job_id) == "waiting"

    def test_a_job_that_its_node_hands_back_goes_to_the_head_of_its_line(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.send("first")
        desk.park("second")
        self.requeue(desk, first.job_id, requeued=False)
        assert desk.queue("n1") == ["first"]

    def requeue(self, desk: Desk, job_id: str, requeued: bool = True) -> None:
        redis, queue = desk.service.redis, desk.service.keys("node_queue", "n1")
        desk.service.claim_job(job_id, "n1")
        redis.lmove(queue, desk.service.keys("job_queue", job_id), "RIGHT", "LEFT")
        desk.service.place_jobs([job_id], "n1", requeued=requeued)

    def finish(self, desk: Desk, job_id: str) -> None:
        desk.complete(SimpleNamespace(job_id=job_id, node_id="n1"))  # type: ignore[arg-type]


def test_a_revoked_job_that_is_handed_back_is_not_dispatched_again(
    desk: Desk, client: redis.Redis
) -> None:
    """The job may be in the queue of a stopping node that has not notified the caller."""
    desk.node("n1", 1)
    desk.node("n2", 1, ["mt"])
    desk.send()
    job_id = desk.park("revoked", task_id="t")
    desk.service.revoke_tasks(["t"], "n1")
    message = client.lpop(NODE_QUEUE)
    parked = (job_id, message, "", "", "", NODE_QUEUE)
    assert desk.service.park_messages([parked]) == ["gone"]
    client.lpush(NODE_QUEUE, message)
    assert desk.service.park_messages([parked]) == ["parked"]
    assert desk.service.place_jobs([job_id], "n1") == ["unchanged"]
    desk.beat("n2")
    assert desk.queue("n2") == ["revoked"]  # the worker of n2 notifies the caller
    assert desk.status(job_id) == "failed"


def test_messages_of_each_priority_in_a_node_s_queue_are_consumed(
    desk: Desk, client: redis.Redis
) -> None:
    """kombu puts them into other lists. A message there would keep the leases of the node alive."""
    desk.node("n1", 1)
    desk.dispatch()  # a caller that dies before it sends the message
    for step, number in ((9, 1), (3, 150), (6, 1)):
        client.lpush(f"{NODE_QUEUE}\x06\x16{step}", *(f"{step}-{n}" for n in range(number)))
    client.lpush(NODE_QUEUE, "0-0")
    desk.beat("n1")
    assert client.llen(NODE_QUEUE) == 101
    desk.beat("n1")
    order = client.lrange(NODE_QUEUE, 0, -1)[::-1]
    assert order == ["0-0", *(f"3-{n}" for n in range(150)), "6-0", "9-0"]
    assert client.keys(f"{NODE_QUEUE}*") == [NODE_QUEUE]
    client.delete(NODE_QUEUE)


@pytest.fixture(scope="module")
def fleet(_server: Server) -> Iterator[Fleet]:
    """An empty fleet, shared by the tests below. Each test starts its own nodes."""
    with _server.client() as client:
        client.flushall()
    celery = {"worker_deduplicate_successful_tasks": True}
    with checked(Fleet(_server, celery=celery, **FAST)) as fleet:
        yield fleet


def test_jobs_of_each_type_of_priority_survive_a_restart(fleet: Fleet) -> None:
    fleet.start_ready("p1", "-P", "threads", "-c", "1", slots=5)
    with fleet.server.client() as client:
        running = fleet.send("hold_late", "running")
        wait_for(lambda: client.exists("test:began:running"))
        results = [fleet.send("late", priority=priority) for priority in (6, "6", 6.0)]
        with publish_handler({"priority": "9"}, {}):
            results.append(fleet.send("late", task_id=uuid.uuid4()))
        fleet.kill("p1", 15)
        fleet.start_ready("p2", "-P", "threads", slots=2)
        assert [result.get(timeout=20) for result in results] == ["late"] * 4
        client.lpush("test:release:running", "go")
        running.get(timeout=20)
    assert fleet.processes["p1"].wait(60) == 0
    for priority in (None, 3, "5", 9):  # messages to the queue of the node
        own = {"queue": "minsched.node.p2", "priority": priority}
        assert (
            fleet.app.send_task("tests.support.app.anywhere", **own).get(timeout=20)
            == empty_place()
        )
    fleet.stop("p2")


def test_a_task_sees_that_its_message_is_redelivered(fleet: Fleet) -> None:
    fleet.start_ready("r1", "-P", "threads", slots=1)
    requeuing = fleet.send("requeues_until", "other")  # holds the only slot
    fleet.send("mark", "other", "ran")
    assert requeuing.get(timeout=20) == [False, True]
    fleet.stop("r1")


def test_a_task_that_succeeded_does_not_run_again_after_the_death_of_its_node(fleet: Fleet) -> None:
    """``worker_deduplicate_successful_tasks`` checks only redelivered messages."""
    fleet.start_ready("d1", slots=1)
    result = fleet.send("stores_and_kills_its_node")
    wait_for(lambda: (job := fleet.job(result.id)) and job.node_id == "d1")
    fleet.processes["d1"].wait(60)
    fleet.start_ready("d2", slots=1)
    wait_for(lambda: (job := fleet.job(result.id)) and job.status == "finished")
    with fleet.server.client() as client:
        assert client.lrange(f"test:ran:{result.id}", 0, -1) == ["celery@d1"]
    assert result.get(timeout=20) == "first"
    fleet.stop("d2")
