"""A node that is there and takes no jobs: it is stopping or stuck, and it is not gone."""

from __future__ import annotations

from typing import Any

import pytest

from .desk import Desk, silence


def state(desk: Desk, node_id: str) -> str:
    return str(desk.service.redis.hget(desk.service.keys("node_info", node_id), "state"))


def kinds(desk: Desk) -> list[str]:
    return [event.kind for event in desk.views.events() if event.kind.startswith("node_")]


@pytest.mark.parametrize("why", ["stopping", "stuck"])
def test_a_node_with_a_reason_takes_no_jobs_and_keeps_its_own(desk: Desk, why: Any) -> None:
    desk.node("n1")
    desk.node("n2", 1)
    job = desk.dispatch(preferred_node="n1")
    desk.service.claim_job(job.job_id, "n1")
    desk.beat("n1", state=why, jobs=[job.job_id])
    desk.beat("n1", state=why, jobs=[job.job_id])
    assert state(desk, "n1") == why
    assert desk.dispatch(preferred_node="n1").node_id == "n2"
    desk.service.rescue_node("n1", [])  # a rescuer that comes too late
    assert desk.status(job.job_id) == "running"
    assert not desk.beat("n2", rescues=True).rescue_due
    assert kinds(desk) == ["node_joined", "node_joined", f"node_{why}"]


def test_a_node_that_stops_leaves_once(desk: Desk) -> None:
    desk.node("n1")
    desk.beat("n1", state="stopping", jobs=[])
    assert desk.info("n1").instance
    for _ in range(2):
        desk.beat("n1", online=False, jobs=[])
    assert (desk.info("n1").instance, state(desk, "n1")) == ("", "")
    assert kinds(desk) == ["node_joined", "node_stopping", "node_left"]


def test_a_node_that_was_stuck_recovers(desk: Desk) -> None:
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
