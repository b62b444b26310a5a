"""A live node that takes no jobs: it is stopping or stuck."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.desk import Desk, silence


def state(desk: Desk, node_id: str) -> str:
    return str(desk.service.redis.hget(desk.service.keys("node_info", node_id), "state"))


def kinds(desk: Desk) -> list[str]:
    return [event.kind for event in desk.views.events() if event.kind.startswith("node_")]


@pytest.mark.parametrize("why", ["stopping", "stuck"])
def test_a_node_that_is_stopping_or_stuck_takes_no_jobs_and_keeps_its_own(
    desk: Desk, why: Any
) -> None:
    desk.node("n1")
    desk.node("n2", 1)
    job = desk.dispatch(preferred_node="n1")
    desk.service.claim_job(job.job_id, "n1")
    desk.beat("n1", state=why, jobs=[job.job_id])
    desk.beat("n1", state=why, jobs=[job.job_id])
    assert state(desk, "n1") == why
    assert desk.dispatch(preferred_node="n1").node_id == "n2"
    desk.service.rescue_node("n1", [])  # a late rescuer
    assert desk.status(job.job_id) == "running"
    assert not desk.beat("n2", rescues=True).rescue_due
    assert kinds(desk) == ["node_joined", "node_joined", f"node_{why}"]


def test_a_stopping_node_leaves_once(desk: Desk) -> None:
    desk.node("n1")
    desk.beat("n1", state="stopping", jobs=[])
    assert desk.info("n1").instance
    for _ in range(2):
        desk.beat("n1", online=False, jobs=[])
    assert (desk.info("n1").instance, state(desk, "n1")) == ("", "")
    assert kinds(desk) == ["node_joined", "node_stopping", "node_left"]


def test_a_stuck_node_recovers(desk: Desk) -> None:
    desk.node("n1")
    desk.beat("n1", state="stuck", jobs=[])
    waits = desk.park()
    desk.beat("n1", jobs=[])
    assert desk.status(waits) == "dispatched"
    assert kinds(desk) == ["node_joined", "node_stuck", "node_recovered"]


def test_a_stopping_node_that_falls_silent_is_dead(desk: Desk) -> None:
    desk.node("n1")
    desk.beat("n1", state="stopping", jobs=[])
    silence(desk, "n1", 3000)
    desk.service.declare_dead("n1")
    assert state(desk, "n1") == ""
    assert kinds(desk) == ["node_joined", "node_stopping", "node_died"]


class TestEvidence:
    """A message stays unread in the queue of a node that reads each message at once."""

    def age(self, desk: Desk, node_id: str, milliseconds: int) -> None:
        info = desk.service.keys("node_info", node_id)
        desk.service.redis.hincrby(info, "unread_ms", milliseconds)

    def test_a_node_that_leaves_a_message_unread_is_stuck(self, desk: Desk) -> None:
        desk.node("n1")
        job = desk.send(preferred_node="n1")
        desk.node("n2")
        assert not desk.beat("n1", jobs=[], takes_at_once=True).is_stuck
        assert not desk.beat("n1", jobs=[], takes_at_once=True).is_stuck
        self.age(desk, "n1", 13_000)
        assert desk.beat("n1", jobs=[], takes_at_once=True).is_stuck
        assert state(desk, "n1") == "stuck"
        assert kinds(desk) == ["node_joined", "node_joined", "node_stuck"]
        desk.take("n1")
        desk.service.claim_job(job.job_id, "n1")
        assert desk.beat("n1", jobs=[job.job_id], takes_at_once=True).is_stuck  # for a lease
        info = desk.service.keys("node_info", "n1")
        desk.service.redis.hset(info, "stuck_until", 1)
        assert not desk.beat("n1", jobs=[job.job_id], takes_at_once=True).is_stuck
        assert desk.info("n1").online
        assert not desk.service.redis.hexists(info, "stuck_until")
        desk.complete(job)

    def test_a_node_that_reads_messages_is_not_stuck(self, desk: Desk) -> None:
        desk.node("n1", 9)
        jobs = [desk.send(str(n)) for n in range(3)]
        for _ in jobs:
            assert not desk.beat("n1", jobs=[], takes_at_once=True).is_stuck
            self.age(desk, "n1", 13_000)
            desk.take("n1")
        assert not desk.beat("n1", jobs=[], takes_at_once=True).is_stuck
        assert not desk.service.redis.hexists(desk.service.keys("node_info", "n1"), "unread")
        for job in jobs:
            desk.complete(job)

    def test_a_node_that_may_leave_messages_unread_is_not_stuck(self, desk: Desk) -> None:
        desk.node("n1")
        job = desk.send()
        desk.beat("n1", jobs=[], takes_at_once=True)
        self.age(desk, "n1", 13_000)
        assert not desk.beat("n1", jobs=[]).is_stuck
        desk.take("n1")
        desk.complete(job)
