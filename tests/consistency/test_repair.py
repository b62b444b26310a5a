"""Repairs of jobs, and violations that a repair leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery_minsched import CompleteTaskRequest
from celery_minsched.consistency.repair import repair
from node_agent.requeue import park_queue

from ..support.world import LATER, World, message


def test_a_job_without_its_message_is_lost_and_its_caller_is_notified(world: World) -> None:
    world.client.delete(world.keys("job_queue", world.waiting))
    assert world.repair() == []
    assert world.desk.status(world.waiting) == "lost"
    assert world.service.claim_lost_job() == world.waiting


def test_a_job_without_its_slot_gets_it_back_until_its_node_reports(world: World) -> None:
    world.client.delete(world.keys("node_jobs", "full"))
    assert world.repair() == []
    assert world.desk.taken("full") == 2
    assert world.service.complete_task(
        CompleteTaskRequest(job_id=world.running, node_id="full", status="finished")
    )
    assert world.desk.status(world.waiting) == "dispatched"  # in the freed slot


def test_a_job_without_its_record_is_placed_by_the_demand_in_its_message(world: World) -> None:
    world.client.delete(world.keys("job", world.speech), world.keys("task", "s"))
    assert world.repair() == []
    world.desk.node("second", 1, [{"id": "asr", "langs": [["zh", "en"]]}])
    jobs = [world.waiting, world.speech]
    assert [world.desk.status(job_id) for job_id in jobs].count("dispatched") == 1
    job = world.desk.views.job_of_task("s")
    assert job is not None
    assert job.job_id == world.speech


def test_a_rescue_restores_a_record_that_redis_has_lost(world: World) -> None:
    plugin: Any = SimpleNamespace(scheduler=world.service)
    queue = world.keys("node_queue", "full")
    world.client.lpush(queue, message(world.dispatched, task_id="dispatched"))
    world.client.delete(world.keys("job", world.dispatched))
    world.desk.beat("full", jobs=[world.running, world.dispatched])  # creates the record again
    world.die("full")
    assert list(park_queue(plugin, queue)) == [world.dispatched, world.revoked]
    world.desk.node("second", 4, [{"id": "asr", "langs": [["zh", "en"]]}])
    world.service.rescue_node("full", [world.dispatched])
    job = world.desk.views.job(world.dispatched)
    assert job is not None
    assert (job.status, job.node_id, job.pool) == ("dispatched", "second", "asr")


def test_a_job_without_its_demand_frees_its_slot_and_its_caller_is_notified(world: World) -> None:
    world.client.hdel(world.keys("job", world.running), "where")
    parked = world.keys("job_queue", world.running)
    world.client.lpush(parked, "{}")
    assert world.service.place_jobs([world.running], handed_back_by="full") == ["lost"]
    assert world.desk.status(world.waiting) == "dispatched"
    assert world.service.claim_lost_job() == world.running


def test_a_message_at_a_dead_node_waits_for_the_next_rescuer(world: World) -> None:
    world.client.lpush(world.keys("node_queue", "dead"), message(world.lost))
    assert world.repair() == []
    node_id, _ = world.service.claim_rescue()
    assert node_id == "dead"


def test_a_message_that_a_program_sent_to_a_dead_node_waits_for_the_node(world: World) -> None:
    world.client.lpush(world.keys("node_queue", "dead"), "by hand")
    assert world.check() == []


def test_a_lost_job_with_an_expiry_leaves_nothing(world: World) -> None:
    job_id = world.send(pool="tts", capabilities=["none"], expires_ts=LATER)
    world.client.delete(world.keys("job_queue", job_id))
    world.desk.node("able", 1, ["tts"], caps=["none"])
    assert world.desk.status(job_id) == "lost"
    assert world.client.zscore(world.keys("expiring"), job_id) is None
    assert world.check() == []


def test_acknowledged_messages_of_a_dead_worker_are_removed(world: World) -> None:
    keys = world.keys
    world.client.hset(keys("node_unacked", "dead"), "tag", "[{}, 1, 2]")
    world.client.sadd(keys("node_acked", "dead"), "tag")
    assert world.repair() == []
    assert not world.client.exists(keys("node_unacked", "dead"), keys("node_acked", "dead"))


def test_a_repair_after_a_recovery_changes_nothing(world: World) -> None:
    world.client.zrem(world.keys("node_jobs", "full"), world.running)
    violations = world.check()
    world.desk.beat("full", jobs=[world.running])  # the heartbeat mends it
    before = world.everything()
    assert repair(world.service, world.checker, violations, pause=0) == []
    assert world.everything() == before
