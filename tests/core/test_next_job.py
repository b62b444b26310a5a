"""A node takes its next job in the answer to a completion, and its messages by a claim."""

from __future__ import annotations

import json

import pytest
import redis

from celery_minsched import CompleteTaskRequest, CompleteTaskResponse, DispatchRequest
from celery_minsched.core.models import DispatchResponse, NextJob

from ..support.desk import Desk, running_at

UNACKED = "minsched.unacked.n1"


def end(desk: Desk, job_id: str, next_claim: str = "c2", tag: str = "") -> CompleteTaskResponse:
    """Complete a job of node n1, which takes its next job by this claim."""
    return desk.service.complete_task(
        CompleteTaskRequest(
            job_id=job_id,
            node_id="n1",
            status="finished",
            delivery_tag=tag,
            next_claim=next_claim,
        )
    )


def bring(desk: Desk, job_id: str, next_claim: str = "c2") -> NextJob:
    """The job that the answer to a completion brings."""
    next_job = end(desk, job_id, next_claim).next_job
    assert next_job is not None
    return next_job


@pytest.fixture
def running(desk: Desk) -> str:
    """The one job of node n1."""
    desk.node("n1", 1)
    job_id = desk.send().job_id
    desk.take("n1")
    assert desk.service.claim_job(job_id, "n1", "tag", "c1")[0] == "run"
    return job_id


def test_the_answer_to_a_completion_brings_the_first_waiting_job(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    first, second = desk.park("first"), desk.park("second")
    place = bring(desk, running)
    assert (place.job_id, place.pool, place.chosen_by) == (first, "asr", "first_free")
    assert json.loads(place.message) == {"text": "first", "job_id": first}
    assert place.waited_ms >= 0
    assert str(place.term) == client.hget("scheduler:node:info:n1", "term")
    assert (desk.status(first), desk.status(second)) == ("running", "waiting")
    assert desk.queue("n1") == []
    assert not client.exists(f"minsched.job.{first}")
    record = client.hgetall(f"scheduler:job:{first}")
    assert (record["tag"], record["claim"], record["node_id"]) == ("c2", "c2", "n1")
    assert {"started_ts", "dispatched_ts", "waited_ms"} <= record.keys()


def test_its_message_is_unacknowledged_in_the_form_of_kombu(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    desk.park(session_id='"quoted"\\ä')
    place = bring(desk, running)
    stored = json.loads(client.hget(UNACKED, "c2"))
    assert stored == [json.loads(place.message), "", f"minsched.job.{place.job_id}"]
    assert client.zscore("minsched.unacked_index.n1", "c2") == pytest.approx(
        client.time()[0], abs=10
    )
    end(desk, place.job_id, next_claim="", tag="c2")
    assert not client.exists(UNACKED, "minsched.unacked_index.n1")


def test_a_lost_answer_comes_again(desk: Desk, running: str) -> None:
    desk.park("first"), desk.park("second")
    place = bring(desk, running)
    again = end(desk, running)
    assert again.already_ended
    assert again.next_job == place
    assert desk.taken("n1") == 1
    assert end(desk, running, "another claim").next_job is None
    assert end(desk, running, "").next_job is None
    end(desk, place.job_id, "", "c2")
    assert end(desk, running).next_job is None


def test_a_lost_answer_without_a_job_stays_without_one(desk: Desk, running: str) -> None:
    assert end(desk, running).next_job is None
    job = desk.send()
    assert job.node_id == "n1"
    assert end(desk, running).next_job is None


def test_a_node_that_died_is_not_brought_its_job_again(desk: Desk, running: str) -> None:
    job_id = desk.park()
    place = bring(desk, running)
    [became] = desk.service.park_messages([(job_id, place.message, "", "n1", "c2", "")])
    assert became == "parked"
    assert desk.service.place_jobs([job_id], "n1") == ["dispatched"]
    assert end(desk, running).next_job is None
    assert desk.status(job_id) == "dispatched"


def test_a_claim_that_was_given_up_leaves_the_message_of_a_later_claim(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    """The node drops a job's message by its delivery tag. The job may have come again since."""
    job_id = desk.park()
    place = bring(desk, running)
    desk.service.park_messages([(job_id, place.message, "", "n1", "c2", "")])
    later = desk.park(priority=0)
    desk.service.place_jobs([job_id], "n1")
    [holder] = running_at(desk, "n1")
    back = bring(desk, holder, "c3").job_id
    assert {holder, back} == {job_id, later}
    assert client.hkeys(UNACKED) == client.zrange("minsched.unacked_index.n1", 0, -1) == ["c3"]


@pytest.mark.parametrize("acked", [False, True])
def test_a_job_whose_answer_was_lost_for_good_runs_after_its_lease(
    client: redis.Redis, desk: Desk, running: str, acked: bool
) -> None:
    job_id = desk.park("waiting")
    place = bring(desk, running)
    if acked:
        desk.service.acknowledge_job("n1", "c2", place.term)
    desk.beat("n1", jobs=[])
    assert desk.status(job_id) == "running"
    client.zadd("scheduler:node:jobs:n1", {job_id: 1})
    desk.beat("n1", jobs=[])
    assert desk.status(job_id) == ("lost" if acked else "dispatched")
    assert desk.queue("n1") == ([] if acked else ["waiting"])


def test_a_job_without_its_message_is_lost_and_the_next_one_comes(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    first, second = desk.park(), desk.park()
    client.delete(f"minsched.job.{first}")
    assert bring(desk, running).job_id == second
    assert desk.status(first) == "lost"


def test_a_revoked_or_delayed_job_does_not_come(desk: Desk, running: str) -> None:
    desk.park(task_id="revoked")
    desk.service.revoke_tasks(["revoked"], "n1")
    desk.park(due_ts=10**15)
    last = desk.park()
    assert bring(desk, running).job_id == last


def test_a_node_that_takes_no_jobs_is_brought_none(desk: Desk, running: str) -> None:
    job_id = desk.park()
    desk.service.drain_node("n1")
    assert end(desk, running).next_job is None
    assert desk.status(job_id) == "waiting"


def test_only_the_first_of_several_free_slots_takes_its_job(desk: Desk, running: str) -> None:
    first, second = desk.park("first"), desk.park("second")
    desk.service.redis.hset("scheduler:node:info:n1", "max_jobs", 2)
    assert bring(desk, running).job_id == first
    assert desk.status(second) == "dispatched"
    assert desk.queue("n1") == ["second"]


def test_a_message_with_a_priority_comes(client: redis.Redis, desk: Desk, running: str) -> None:
    low, high = desk.park("low", priority=9), desk.park("high", priority=3)
    place = bring(desk, running)
    assert place.job_id == high
    assert bring(desk, high, "c3").job_id == low
    assert client.keys("minsched.job.*") == []


def test_a_message_of_any_bytes_comes_unchanged(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    job_id = desk.park()
    message = bytes(range(256)) * 3 + b'"]'
    client.delete(f"minsched.job.{job_id}")
    client.lpush(f"minsched.job.{job_id}", message)
    assert bring(desk, running).message == message
    assert bring(desk, running).message == message


def test_without_memory_the_completion_brings_no_job(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    job_id = desk.park("waiting")
    client.config_set("maxmemory", 1)
    try:
        assert end(desk, running, tag="tag").next_job is None
    finally:
        client.config_set("maxmemory", 0)
    assert (desk.status(running), desk.status(job_id)) == ("finished", "dispatched")
    assert desk.queue("n1") == ["waiting"]


def test_unreadable_unacknowledged_messages_lose_no_job(
    client: redis.Redis, desk: Desk, running: str
) -> None:
    desk.park("waiting")
    client.delete(UNACKED)
    client.set(UNACKED, "no hash")
    assert end(desk, running).next_job is None
    assert desk.queue("n1") == ["waiting"]
    client.delete(UNACKED, "minsched.unacked_index.n1")


def test_a_run_that_was_given_up_brings_no_job(desk: Desk, running: str) -> None:
    desk.park()
    desk.service.claim_job(running, "n1", "tag", "a later claim")
    request = CompleteTaskRequest(
        job_id=running, node_id="n1", status="finished", claim="c1", next_claim="c2"
    )
    answer = desk.service.complete_task(request)
    assert (answer.already_ended, answer.next_job) == (True, None)


class TestTaken:
    """The claim moves the message that the node has taken."""

    MESSAGE = '{"body": "b", "properties": {"delivery_tag": "tag-1"}}'

    @pytest.fixture
    def job(self, client: redis.Redis, desk: Desk) -> DispatchResponse:
        desk.node("n1")
        job = desk.service.dispatch_task(DispatchRequest(pool="asr"))
        client.lpush("minsched.taken.n1", self.MESSAGE)
        return job

    def test_it_is_unacknowledged_and_the_job_runs(
        self, client: redis.Redis, desk: Desk, job: DispatchResponse
    ) -> None:
        verdict, place = desk.service.claim_job(job.job_id, "n1", "tag-1", "c1", taken=True)
        assert (verdict, place["pool"]) == ("run", "asr")
        assert not client.exists("minsched.taken.n1")
        stored = json.loads(client.hget(UNACKED, "tag-1"))
        assert stored == [json.loads(self.MESSAGE), "", f"minsched.job.{job.job_id}"]
        assert client.zscore("minsched.unacked_index.n1", "tag-1") > 10**9
        desk.service.complete_task(
            CompleteTaskRequest(
                job_id=job.job_id, node_id="n1", status="finished", delivery_tag="tag-1"
            )
        )

    def test_another_message_in_the_list_changes_nothing(
        self, client: redis.Redis, desk: Desk, job: DispatchResponse
    ) -> None:
        answer = desk.service.claim_job(job.job_id, "n1", "tag-2", "c1", taken=True)
        assert answer == ("not_taken", {})
        assert desk.status(job.job_id) == "dispatched"
        client.delete("minsched.taken.n1")
        assert desk.service.claim_job(job.job_id, "n1", "tag-1", "c1", True)[0] == "not_taken"
        assert desk.service.claim_job(job.job_id, "n1", "tag-1", "c1")[0] == "run"
        assert not client.exists(UNACKED)

    def test_it_is_unacknowledged_whatever_the_verdict(
        self, client: redis.Redis, desk: Desk, job: DispatchResponse
    ) -> None:
        desk.complete(job)
        assert desk.service.claim_job(job.job_id, "n1", "tag-1", "c1", True)[0] == "drop"
        assert client.hkeys(UNACKED) == ["tag-1"]
        assert not client.exists("minsched.taken.n1")
        client.delete(UNACKED, "minsched.unacked_index.n1")

    def test_a_job_is_claimed_without_memory(
        self, client: redis.Redis, desk: Desk, job: DispatchResponse
    ) -> None:
        client.config_set("maxmemory", 1)
        try:
            assert desk.service.claim_job(job.job_id, "n1", "tag-1", "c1", True)[0] == "run"
        finally:
            client.config_set("maxmemory", 0)
        assert client.hkeys(UNACKED) == ["tag-1"]
