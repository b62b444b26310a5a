"""A key of a wrong type stops its own node, job or line, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse
from node_agent.rescuer import rescue

from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.server import Server


class Work:
    """Two pools with waiting and delayed jobs. In the pool "bad" a node is silent."""

    def __init__(self, server: Server, client: redis.Redis) -> None:
        self.plugin = make_app(server.url).minsched
        self.client, self.desk = client, Desk(MinimalSchedulerService(client))
        for node_id, pools in (("dead", ["bad"]), ("ill", ["good"]), ("g1", ["good", "bad"])):
            self.desk.node(node_id, 1, pools)
            self.desk.beat(node_id)
        self.at_dead, self.at_ill, self.at_g1 = (
            self.send(pool, preferred_node=node_id)
            for pool, node_id in (("bad", "dead"), ("good", "ill"), ("good", "g1"))
        )
        self.first = self.send("good", session_id="s")
        self.second = self.send("good")
        self.send("bad")
        later = self.desk.views.now() + 600_000
        self.due = [self.send(pool, due_ts=later) for pool in ("bad", "good")]
        client.zadd("scheduler:delayed", {job.job_id: n for n, job in enumerate(self.due)})
        self.desk.take("dead")
        self.desk.service.claim_job(self.at_dead.job_id, "dead")
        silence(self.desk, "dead", 60_000)

    def send(self, pool: str, **demand: object) -> DispatchResponse:
        return self.desk.send(pool=pool, task_id=f"t{self.client.dbsize()}", **demand)

    def spoil(self, key: str) -> None:
        key = key.format(first=self.first.job_id)
        assert self.client.exists(key), key
        self.client.delete(key)
        self.client.set(key, "x")


@pytest.fixture
def work(server: Server, client: redis.Redis) -> Iterator[Work]:
    work = Work(server, client)
    yield work
    work.plugin.app.close()


@pytest.mark.parametrize(
    "key",
    [
        *(f"scheduler:node:{record}:dead" for record in ("info", "jobs", "runtime")),
        *(f"scheduler:node:{record}:ill" for record in ("info", "runtime")),
        *("scheduler:job:{first}", "minsched.job.{first}", "scheduler:session:s"),
        *("scheduler:waiting:bad//", "scheduler:pool:bad:waiting"),
        *("scheduler:pool:bad:turns:0", "scheduler:pool:good:turns:0"),
    ],
)
def test_other_nodes_jobs_and_lines_continue(work: Work, key: str) -> None:
    if ":session:" in key:
        work.client.hset("scheduler:session:s", "node_id", "g1")
    work.spoil(key)
    desk, status = work.desk, work.desk.status
    desk.beat("g1", jobs=[work.at_g1.job_id])
    assert status(work.due[1].job_id) == "waiting"
    desk.node("g2", 1, ["good"])
    desk.complete(work.at_g1)
    desk.beat("g1")
    desk.beat("g2")
    assert "dispatched" in (status(work.first.job_id), status(work.second.job_id))
    work.client.delete("scheduler:node:info:g2")
    desk.node("g3", 3, ["good"])
    assert status(work.second.job_id) == "dispatched"
    job = work.send("good")
    assert job.node_id in ("g3", "")
    rescue(work.plugin)
    if "dead" not in key:
        assert status(work.at_dead.job_id) == "lost"
    if ":session:" not in key:  # check reads no sessions: they lapse
        assert "key_of_wrong_type" in {violation.code for violation in Checker(desk.views).check(0)}
