"""A node's claims belong to a term, which Redis raises when it declares the node dead."""

from __future__ import annotations

import redis

from celery_minsched import CompleteTaskRequest

from ..support.desk import Desk, silence


def term(desk: Desk, node_id: str, instance: str = "") -> int:
    return int(desk.beat(node_id, jobs=[], instance=instance).term)


def test_each_death_starts_a_new_term(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    desk.node("n2")
    first = term(desk, "n1")
    assert first > 0
    assert first != term(desk, "n2")
    desk.node("n1", 4)  # it registers again with more slots
    assert term(desk, "n1") == first

    silence(desk, "n1", 3000)
    desk.service.declare_dead("n1")
    second = term(desk, "n1")
    assert second > first
    assert term(desk, "n1") == second

    silence(desk, "n1", 60_000)
    now = desk.views.now()
    client.hset(desk.service.keys("heard"), mapping={"since": 1, "last": now})
    desk.beat("n2")
    assert desk.info("n1").online is False
    assert term(desk, "n1") > second


def test_a_node_that_only_left_dispatch_keeps_its_term(desk: Desk) -> None:
    """The node keeps its jobs."""
    desk.node("n1", 1)
    first = term(desk, "n1")
    silence(desk, "n1", 60_000)
    desk.park()
    assert term(desk, "n1") == first


def test_a_new_process_of_a_node_starts_a_new_term(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", instance="one")
    first = term(desk, "n1", "one")
    silence(desk, "n1", 60_000)
    desk.node("n1", instance="two")
    second = term(desk, "n1", "two")
    client.flushdb()
    desk.node("n1", instance="two")
    assert second > first
    assert term(desk, "n1", "two") > 0


def test_a_heartbeat_without_jobs_ends_the_rescue(desk: Desk) -> None:
    """A node without a connection to the broker cannot report its jobs."""
    desk.node("n1")
    desk.node("n2")
    job = desk.dispatch(preferred_node="n1")
    desk.service.claim_job(job.job_id, "n1")
    silence(desk, "n1", 3000)
    desk.service.declare_dead("n1")
    desk.beat("n1", state="stopping", jobs=None)
    desk.beat("n2")
    desk.service.claim_rescue()
    assert desk.status(job.job_id) == "running"


def test_a_message_is_acknowledged_first_only_in_the_term_of_its_claim(
    desk: Desk, client: redis.Redis
) -> None:
    keys = desk.service.keys
    desk.node("n1")
    job = desk.dispatch()
    verdict, place = desk.service.claim_job(job.job_id, "n1", "tag")
    assert (verdict, place["term"]) == ("run", term(desk, "n1"))
    assert desk.service.acknowledge_job("n1", "tag", place["term"]) == "gone"
    client.hset(keys("node_unacked", "n1"), "tag", "[]")
    for _ in range(2):  # an answer may be lost
        assert desk.service.acknowledge_job("n1", "tag", place["term"]) == "acknowledged"
    client.delete(keys("node_acked", "n1"))
    silence(desk, "n1", 3000)
    desk.service.declare_dead("n1")
    assert desk.service.acknowledge_job("n1", "tag", place["term"]) == "refused"
    assert not client.exists(keys("node_acked", "n1"))
    client.delete(keys("node_unacked", "n1"))
    desk.beat("n1", jobs=[job.job_id])


def test_an_abandoned_run_does_not_end_the_next_run_at_its_node(
    desk: Desk, client: redis.Redis
) -> None:
    """A stopped process of the node still exists, and another process has its id."""
    keys = desk.service.keys
    desk.node("n1")
    job = desk.dispatch()
    for claim in ("one", "two"):
        desk.service.claim_job(job.job_id, "n1", "tag", claim)
    client.hset(keys("node_unacked", "n1"), "tag", "[]")

    def end(claim: str) -> bool:
        return desk.service.complete_task(
            CompleteTaskRequest(
                job_id=job.job_id,
                node_id="n1",
                status="finished",
                delivery_tag="tag",
                claim=claim,
            )
        ).already_ended

    assert end("one")
    assert desk.status(job.job_id) == "running"
    assert client.exists(keys("node_unacked", "n1"))
    assert not end("two")
    assert desk.status(job.job_id) == "finished"
    assert not client.exists(keys("node_unacked", "n1"))
