"""The key that names the latest job of a task stays as long as that job's record."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from celery_minsched import DispatchRequest, MinimalSchedulerService, Settings
from celery_minsched.consistency.checker import Checker

from ..support.desk import Desk, silence
from ..support.fleet import wait_for

BRIEF = Settings(node_ttl=0.3, heartbeat_interval=0.05, lease=0.3, history_ttl=0.6)
FOREVER = -1  # of PTTL


class Retried:
    """A task whose first job holds a slot at n1, and whose retry is delayed."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.client = desk, desk.service.redis
        self.key = desk.service.keys("task", "t1")
        desk.node("n1")
        desk.node("n2")
        self.first = desk.send(task_id="t1", token="first", preferred_node="n1")
        due_ts = desk.views.now() + 60_000
        self.retry = desk.send(task_id="t1", token="retry", due_ts=due_ts).job_id

    def park(self) -> None:
        """Put the first job's message in the job's own list."""
        keys = self.desk.service.keys
        own = keys("job_queue", self.first.job_id)
        self.client.lmove(keys("node_queue", "n1"), own, "RIGHT", "LEFT")

    def hand_back(self, requeued: bool = False) -> None:
        self.park()
        assert self.desk.service.place_jobs([self.first.job_id], "n1", requeued) != ["unchanged"]

    def die(self) -> None:
        """The node is silent. Its job is placed at n2."""
        silence(self.desk, "n1", 9000)
        self.park()
        self.desk.beat("n2")
        self.desk.service.rescue_node("n1", [self.first.job_id])

    def lose(self) -> None:
        silence(self.desk, "n1", 9000)
        self.client.delete(self.desk.service.keys("node_queue", "n1"))
        self.desk.service.claim_job(self.first.job_id, "n1")
        self.desk.beat("n2")
        self.desk.service.rescue_node("n1")
        assert self.desk.status(self.first.job_id) == "lost"


#: What may happen to the first job of a task.
FATES: dict[str, Callable[[Retried], object]] = {
    "ends": lambda it: it.desk.complete(it.first),
    "fails": lambda it: it.desk.complete(it.first, "failed"),
    "is claimed": lambda it: it.desk.service.claim_job(it.first.job_id, "n1"),
    "is confirmed": lambda it: it.desk.beat("n1", jobs=[it.first.job_id]),
    "is released": lambda it: it.desk.service.release_job(it.first.job_id),
    "is handed back": Retried.hand_back,
    "is requeued": lambda it: it.hand_back(requeued=True),
    "is rescued": Retried.die,
    "is lost": Retried.lose,
    "is repaired": lambda it: it.desk.service.repair_job(None, it.first.job_id),
}


@pytest.fixture
def brief(client: redis.Redis) -> Desk:
    """Records of ended jobs expire after 0.6 s."""
    return Desk(MinimalSchedulerService(client, BRIEF))


def test_a_retry_that_is_delayed_for_long_is_found_until_it_has_ended(brief: Desk) -> None:
    it = Retried(brief)
    brief.complete(it.first)
    wait_for(lambda: brief.views.job(it.first.job_id) is None, patience=5)
    job = brief.views.job_of_task("t1")
    assert job is not None
    assert (job.job_id, job.status) == (it.retry, "delayed")
    assert brief.service.revoke_tasks(["t1"], "n2")
    wait_for(lambda: not it.client.exists(it.key), patience=5)
    assert brief.views.job(it.retry) is None


@pytest.mark.parametrize("fate", FATES)
def test_the_end_of_the_first_job_keeps_the_key_of_its_retry(desk: Desk, fate: str) -> None:
    it = Retried(desk)
    FATES[fate](it)
    assert it.client.pttl(it.key) == FOREVER
    assert it.client.get(it.key) == it.retry
    it.client.delete(desk.service.keys("node_queue", "n1"), desk.service.keys("node_queue", "n2"))


@pytest.mark.parametrize("fate", FATES)
def test_the_key_expires_with_the_retry_whatever_the_end_of_the_first_job(
    desk: Desk, fate: str
) -> None:
    it = Retried(desk)
    assert desk.service.revoke_tasks(["t1"], "n2")
    it.client.pexpire(it.key, 5000)  # it ended long ago
    FATES[fate](it)
    assert 0 < it.client.pttl(it.key) <= 5000
    it.client.delete(desk.service.keys("node_queue", "n1"), desk.service.keys("node_queue", "n2"))


def test_a_first_job_that_is_lost_after_its_retry_expired_is_not_reported(desk: Desk) -> None:
    it = Retried(desk)
    assert desk.service.revoke_tasks(["t1"], "n2")
    it.client.delete(it.key, desk.service.keys("job", it.retry))
    it.lose()
    assert not it.client.exists(desk.service.keys("lost"))
    it.client.delete(desk.service.keys("node_queue", "n2"))


def test_a_first_job_that_waits_after_its_retry_expired_is_no_violation(desk: Desk) -> None:
    it = Retried(desk)
    assert desk.service.revoke_tasks(["t1"], "n2")
    it.client.delete(it.key, desk.service.keys("job", it.retry))
    for node_id in ("n1", "n2"):
        desk.service.drain_node(node_id)
    it.hand_back()
    desk.service.repair_job(None, it.first.job_id)
    assert Checker(desk.views).check() == []
    assert not it.client.exists(it.key)
    it.client.delete(desk.service.keys("node_queue", "n2"))


def test_a_restored_record_of_the_first_job_keeps_the_key(desk: Desk) -> None:
    it = Retried(desk)
    it.park()
    it.client.delete(desk.service.keys("job", it.first.job_id))
    it.client.zrem(desk.service.keys("node_jobs", "n1"), it.first.job_id)
    desk.service.repair_node("n1")
    request = DispatchRequest(pool="asr", task_id="t1", token="first")
    desk.service.repair_job(request, it.first.job_id)
    assert desk.status(it.first.job_id) == "dispatched"
    assert it.client.pttl(it.key) == FOREVER
    assert it.client.get(it.key) == it.retry


def test_an_expired_record_of_the_first_job_is_not_written(desk: Desk) -> None:
    desk.node("n1")
    first = desk.dispatch(task_id="t1", token="first")
    desk.complete(first)
    desk.service.redis.delete(desk.service.keys("job", first.job_id))
    desk.complete(desk.dispatch(task_id="t1", token="retry"))
    assert desk.views.job(first.job_id) is None
    assert not desk.service.redis.exists(desk.service.keys("job", first.job_id))
