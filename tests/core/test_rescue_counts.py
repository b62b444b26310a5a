"""A rescue counts only against a job that may have killed its node."""

from __future__ import annotations

import redis

from ..support.desk import Desk, silence


def claim(desk: Desk, node_id: str) -> str:
    """A job that the node has claimed, with its message parked as a rescuer does it."""
    job = desk.send(preferred_node=node_id, affinity="require")
    desk.service.claim_job(job.job_id, node_id, job.job_id)
    return job.job_id


def park(desk: Desk, node_id: str, jobs: list[str]) -> None:
    client, keys = desk.service.redis, desk.service.keys
    for job_id in jobs:
        client.lmove(keys("node_queue", node_id), keys("job_queue", job_id), "RIGHT", "LEFT")


def rescues(desk: Desk, jobs: list[str]) -> list[int]:
    return [desk.views.job(job_id).rescues for job_id in jobs]  # type: ignore[union-attr]


def die(desk: Desk, node_id: str) -> None:
    silence(desk, node_id, 3000)
    desk.service.declare_dead(node_id)


def test_only_a_job_that_may_have_begun_counts_the_death(desk: Desk) -> None:
    desk.node("n1", 6, concurrency=2)
    jobs = [claim(desk, "n1") for _ in range(5)]
    die(desk, "n1")
    park(desk, "n1", jobs)
    desk.service.rescue_node("n1", jobs)
    assert rescues(desk, jobs) == [1, 1, 0, 0, 0]


def test_the_oldest_jobs_of_a_dead_node_take_the_free_slots(desk: Desk) -> None:
    desk.node("n1", 12)
    jobs = [job.job_id for job in desk.send_many([{}] * 12)]
    desk.beat("n1", jobs=jobs)
    die(desk, "n1")
    park(desk, "n1", jobs)
    desk.node("n2", 2)
    desk.service.rescue_node("n1", jobs)
    assert {desk.status(job_id) for job_id in jobs[:2]} == {"dispatched"}
    assert {desk.status(job_id) for job_id in jobs[2:]} == {"waiting"}


def test_all_jobs_count_the_death_if_all_run_at_once(desk: Desk) -> None:
    desk.node("n1", 3)
    jobs = [claim(desk, "n1") for _ in range(3)]
    die(desk, "n1")
    park(desk, "n1", jobs)
    desk.service.rescue_node("n1", jobs)
    assert rescues(desk, jobs) == [1, 1, 1]


def test_a_replaced_process_counts_as_a_death(desk: Desk) -> None:
    desk.node("n1", 4, concurrency=1, instance="one")
    jobs = [claim(desk, "n1") for _ in range(3)]
    silence(desk, "n1", 60_000)
    desk.node("n1", 4, instance="two", online=False)
    park(desk, "n1", jobs)
    desk.service.rescue_node("n1", jobs)
    assert rescues(desk, jobs) == [1, 0, 0]


def test_a_node_that_leaves_counts_no_death(desk: Desk) -> None:
    desk.node("n1", 3)
    desk.beat("n1", jobs=[])
    jobs = [claim(desk, "n1") for _ in range(2)]
    park(desk, "n1", jobs)
    desk.beat("n1", online=False, jobs=[])
    desk.service.rescue_node("n1", jobs)
    assert rescues(desk, jobs) == [0, 0]


def test_an_expired_lease_counts_no_death(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 3)
    jobs = [claim(desk, "n1")]
    park(desk, "n1", jobs)
    client.zadd(desk.service.keys("node_jobs", "n1"), {jobs[0]: 1})
    desk.beat("n1", jobs=[])
    assert desk.status(jobs[0]) == "dispatched"
    assert rescues(desk, jobs) == [0]
