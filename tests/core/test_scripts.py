"""The scheduler without Celery: its flows and errors, and repeated calls."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_minsched import (
    EmptyPool,
    MinimalSchedulerService,
    NoAvailableNode,
    NodeIdInUse,
    NodeMismatch,
    NoPoolForLangPair,
    SchedulerError,
    Settings,
    UnknownJob,
    UnknownNode,
)

from ..support.desk import Desk, silence


def test_the_four_flows(desk: Desk) -> None:
    desk.node("n1")
    job = desk.dispatch(session_id="u42", payload_json='{"audio": 7}')
    assert (job.node_id, job.pool, job.job_id) == ("n1", "asr", "u42:1")
    assert desk.taken("n1") == 1
    assert desk.beat("n1", load_json='{"cpu": 40}', jobs=[job.job_id]).current_jobs == 1
    assert desk.status(job.job_id) == "running"
    assert not desk.complete(job).already_ended
    assert desk.taken("n1") == 0
    assert desk.status(job.job_id) == "finished"


def test_a_repeated_call_changes_nothing(desk: Desk) -> None:
    desk.node("n1")
    desk.node("n1")
    first = desk.dispatch(task_id="t1", token="one call")
    assert desk.dispatch(task_id="t1", token="one call") == first
    assert desk.dispatch(task_id="t1", token="another call") != first
    assert desk.taken("n1") == 2
    desk.beat("n1", jobs=[first.job_id])
    desk.beat("n1", jobs=[first.job_id])
    assert desk.taken("n1") == 2
    assert not desk.complete(first).already_ended
    assert desk.complete(first, "failed").already_ended
    assert (desk.taken("n1"), desk.status(first.job_id)) == (1, "finished")
    desk.service.release_job(first.job_id)
    assert desk.taken("n1") == 1


class TestErrors:
    def test_each_error_has_its_code_its_values_and_a_sentence(self, desk: Desk) -> None:
        desk.node("n1", 1)
        job = desk.dispatch()
        cases: list[tuple[type[SchedulerError], Any, dict[str, object], str]] = [
            (EmptyPool, lambda: desk.dispatch(pool="mt"), {"pool": "mt"}, "--pool mt"),
            (EmptyPool, lambda: desk.dispatch(capabilities=["x"]), {}, "--capability x"),
            (NoAvailableNode, desk.dispatch, {"demand": "pool asr"}, "add a node"),
            (UnknownNode, lambda: desk.beat("n9"), {"node_id": "n9"}, "Call register_node"),
            (
                NoPoolForLangPair,
                lambda: desk.dispatch(pool=None, src_lang="zh", tgt_lang="en"),
                {"src_lang": "zh", "tgt_lang": "en"},
                "--lang zh:en",
            ),
            (
                NodeMismatch,
                lambda: desk.complete(job.model_copy(update={"node_id": "n2"})),
                {"owner": "n1", "node_id": "n2"},
                "Drop the result",
            ),
            (
                UnknownJob,
                lambda: desk.complete(job.model_copy(update={"job_id": "u:99"})),
                {"job_id": "u:99"},
                "lapsed",
            ),
            (
                NodeIdInUse,
                lambda: desk.node("n1", instance="another process"),
                {"node_id": "n1"},
                "another id",
            ),
        ]
        for kind, call, values, advice in cases:
            with pytest.raises(kind) as caught:
                call()
            assert str(caught.value).startswith(f"{kind.code}: ")
            assert advice in str(caught.value)
            assert values.items() <= caught.value.values.items()
        assert desk.taken("n1") == 1

    def test_errors_survive_pickling(self) -> None:
        import pickle

        error = UnknownNode(node_id="n1")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


class TestNodes:
    def test_the_id_of_a_crashed_node_is_free_after_node_ttl(self, client: redis.Redis) -> None:
        settings = Settings(node_ttl=0.2, heartbeat_interval=0.05)
        desk = Desk(MinimalSchedulerService(client, settings))
        desk.node("n1")
        with pytest.raises(NodeIdInUse):
            desk.node("n1", instance="next")
        silence(desk, "n1", 1000)
        desk.node("n1", instance="next")
        with pytest.raises(UnknownNode):
            desk.beat("n1", instance="first")

    def test_a_silent_node_leaves_dispatch_and_comes_back(self, desk: Desk) -> None:
        desk.node("n1")
        silence(desk, "n1", 9000)
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.beat("n1")
        assert desk.dispatch().node_id == "n1"

    def test_a_node_may_register_fewer_slots_than_are_taken(self, desk: Desk) -> None:
        desk.node("n1", 3)
        jobs = [desk.dispatch() for _ in range(3)]
        desk.node("n1", 1)
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        for job in jobs:
            desk.complete(job)
        assert desk.dispatch().node_id == "n1"

    def test_a_drained_node_finishes_its_jobs(self, desk: Desk) -> None:
        desk.node("n1")
        job = desk.dispatch()
        assert desk.service.drain_node("n1") == 1
        assert desk.beat("n1").draining
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.complete(job)
        desk.node("n1")  # it stays drained
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.service.drain_node("n1", draining=False)
        assert desk.dispatch().node_id == "n1"
        with pytest.raises(UnknownNode):
            desk.service.drain_node("n9")


class TestHeartbeatRepairs:
    def test_a_heartbeat_restores_a_job_that_the_node_holds_and_redis_lost(
        self, desk: Desk, client: redis.Redis, service: MinimalSchedulerService
    ) -> None:
        desk.node("n1")
        job = desk.dispatch()
        client.delete(service.keys("node_jobs", "n1"), service.keys("job", job.job_id))
        desk.beat("n1", jobs=[job.job_id])
        assert (desk.taken("n1"), desk.status(job.job_id)) == (1, "running")

    def test_a_heartbeat_frees_a_slot_whose_lease_expired(
        self, desk: Desk, client: redis.Redis, service: MinimalSchedulerService
    ) -> None:
        desk.node("n1")
        job = desk.dispatch()
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1  # the message may be on its way
        client.zadd(service.keys("node_jobs", "n1"), {job.job_id: 1})
        client.lpush(service.keys("node_queue", "n1"), "its message, perhaps")
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1
        client.delete(service.keys("node_queue", "n1"))
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1  # the node may have read it just now
        client.zadd(service.keys("node_jobs", "n1"), {job.job_id: 1})
        desk.beat("n1", jobs=[])
        assert (desk.taken("n1"), desk.status(job.job_id)) == (0, "lost")

    def test_a_heartbeat_does_not_take_a_job_of_another_node(self, desk: Desk) -> None:
        desk.node("n1", 1)
        job = desk.dispatch()
        desk.node("n2", 1)
        assert desk.beat("n2", jobs=[job.job_id]).not_yours == [job.job_id]
        assert (desk.taken("n1"), desk.taken("n2")) == (1, 0)
