"""How a node reports the endings of its jobs, and holds the jobs that the answers bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_minsched.consistency.checker import Checker
from node_agent.endings import Endings
from node_agent.held_job import HeldJob
from node_agent.slots import Slots

from ..support.desk import Desk
from ..support.fleet import wait_for

SLOTS = 3


class Node:
    """A node with full slots and a waiting job for each, and no worker."""

    def __init__(self, desk: Desk) -> None:
        desk.node("n1", SLOTS)
        self.slots = Slots(desk.service, "n1", lambda: 1)
        self.running = [desk.send(str(number)).job_id for number in range(SLOTS)]
        for job_id in self.running:
            desk.take("n1")
            desk.service.claim_job(job_id, "n1", f"tag-{job_id}", f"claim-{job_id}")
            self.slots.held[job_id] = HeldJob(f"tag-{job_id}", f"claim-{job_id}", is_begun=True)
        self.waiting = [desk.park(str(number)) for number in range(SLOTS)]
        self.endings = Endings(desk.service, self.slots)
        self.delivered: list[str] = []
        self.endings.deliver = lambda job_id, *_: self.delivered.append(job_id)
        self.slots.in_loop = lambda call: call()  # type: ignore[assignment]

    def end(self) -> None:
        """End the running jobs, before the outbox starts."""
        for job_id in self.running:
            self.endings.report(job_id, "finished")
        self.slots.start()


@pytest.fixture
def node(desk: Desk) -> Any:
    node = Node(desk)
    yield node
    node.slots.stop()
    assert Checker(desk.views).check() == []


def test_endings_that_wait_need_one_round_trip(desk: Desk, node: Node) -> None:
    """Each answer brings a job, and the jobs come in the order of their line."""
    complete, sizes = desk.service.complete_tasks, []

    def note_size(requests: Any) -> Any:
        sizes.append(len(requests))
        return complete(requests)

    desk.service.complete_tasks = note_size  # type: ignore[method-assign]
    node.end()
    wait_for(lambda: len(node.delivered) == SLOTS)
    assert (node.delivered, sizes) == (node.waiting, [SLOTS])
    assert set(node.slots.held) == set(node.waiting)
    assert [desk.status(job_id) for job_id in node.running] == ["finished"] * SLOTS
    assert [desk.status(job_id) for job_id in node.waiting] == ["running"] * SLOTS


def test_an_ending_that_redis_refuses_does_not_hold_up_the_others(
    desk: Desk, client: redis.Redis, node: Node
) -> None:
    broken, *others = node.running
    key = f"scheduler:job:{broken}"
    client.rename(key, "kept")
    client.lpush(key, "no record")
    node.end()
    wait_for(lambda: [desk.status(job_id) for job_id in others] == ["finished"] * 2)
    wait_for(lambda: node.delivered == node.waiting[:2])
    assert set(node.slots.held) == {broken, *node.waiting[:2]}
    client.rename("kept", key)
    client.expire(key, 3600)


@pytest.mark.parametrize("is_still_here", [True, False])
def test_a_job_that_was_given_up_before_its_answer_begins_only_if_the_node_still_has_it(
    desk: Desk, node: Node, is_still_here: bool
) -> None:
    """Another thread hands jobs back while the answer is on its way."""
    node.running = node.running[:1]
    complete = desk.service.complete_tasks
    given_up = node.waiting[0]
    hand_back: list[Callable[[], None]] = [lambda: give_up(desk, node, given_up, is_still_here)]

    def complete_and_hand_back(requests: Any) -> Any:
        answers = complete(requests)
        while hand_back:
            hand_back.pop()()
        return answers

    desk.service.complete_tasks = complete_and_hand_back  # type: ignore[method-assign]
    node.end()
    wait_for(lambda: desk.status(node.running[0]) == "finished" and not node.endings._waiting)
    node.slots.stop()
    assert node.delivered == ([given_up] if is_still_here else [])
    assert (given_up in node.slots.held) == is_still_here
    assert desk.status(given_up) == ("running" if is_still_here else "waiting")


def test_a_job_that_comes_back_while_its_end_is_reported_ends(
    desk: Desk, client: redis.Redis, node: Node
) -> None:
    """Redis has moved the job away. The answer to another ending of the batch brings it back."""
    _, moved, other = node.running
    node.running = [other, moved]
    client.delete(*(f"minsched.job.{job_id}" for job_id in node.waiting))  # they are lost
    client.lpush(f"minsched.job.{moved}", "{}")
    client.hset("scheduler:node:info:n1", "max_jobs", SLOTS - 1)
    assert desk.service.place_jobs([moved], "n1") == ["waiting"]
    node.end()
    wait_for(lambda: desk.status(moved) == "finished")
    node.slots.stop()
    assert not {other, moved} & node.slots.held.keys()
    assert desk.status(other) == "finished"


def give_up(desk: Desk, node: Node, job_id: str, is_still_here: bool) -> None:
    """Forget a job. Without ``is_still_here``, have it placed again too."""
    if not is_still_here:
        keys, client = desk.service.keys, desk.service.redis
        tag = str(client.hget(keys("job", job_id), "tag"))
        entry = client.hget(keys("node_unacked", "n1"), tag)
        message = str(entry).removeprefix("[").split(',"","minsched.job.')[0]
        desk.service.park_messages([(job_id, message, "", "n1", tag, "")])
    node.slots.forget(job_id)
    if not is_still_here:
        desk.service.drain_node("n1")
        desk.service.place_jobs([job_id], "n1")
