"""The jobs of a killed or disconnected node run again or are reported lost. No state is left."""

from __future__ import annotations

import json
import signal
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import redis

from node_agent.requeue import park_messages

from ..support.desk import Desk, silence
from ..support.fixtures import fast_fleet
from ..support.fleet import FAST, Fleet, make_app, stored, wait_for
from ..support.server import Server
from ..support.work import start_work

fleet = fast_fleet


def test_a_task_whose_process_has_not_accepted_it_runs_once(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start_ready("n1", "-c", "1", slots=1)
    # Celery 5.7 gives no task to a process before the process has announced itself.
    assert fleet.send("add", 1).get(timeout=20) == 1
    fleet.wait_idle()
    agent = psutil.Process(fleet.processes["n1"].pid)
    [child] = [process for process in agent.children() if process.children() == []][-1:]
    child.suspend()
    fleet.send("note", "unaccepted")
    wait_for(lambda: fleet.node("n1").current_jobs == 1)  # type: ignore[union-attr]
    wait_for(lambda: fleet.log("n1").count("received") == 2)
    fleet.start_ready("n2")
    fleet.cut("n1")
    wait_for(lambda: fleet.log("n1").count("Connected to") == 2)
    child.resume()
    wait_for(lambda: client.exists("test:ended:unaccepted"))
    fleet.wait_idle()
    assert client.lrange("test:began:unaccepted", 0, -1) == ["celery@n1"]


@pytest.mark.parametrize("task", ["note", "note_late"])
def test_a_message_in_the_socket_of_a_killed_node_runs_on_another_node(
    fleet: Fleet, client: redis.Redis, task: str
) -> None:
    fleet.start_ready("n1", "-P", "threads")
    while True:
        fleet.kill("n1", signal.SIGSTOP)  # Redis answers the node's BLMOVE, and it does not read
        result = fleet.send(task, "in-socket", priority=9)
        if not client.exists("minsched.node.n1"):
            break
        fleet.kill("n1", signal.SIGCONT)  # no BLMOVE was pending
        result.get(timeout=20)
        client.delete("test:began:in-socket")
    fleet.stop("n1", signal.SIGKILL)
    fleet.start_ready("n2", "-P", "threads")
    assert result.get(timeout=20) == "in-socket"
    assert client.lrange("test:began:in-socket", 0, -1) == ["celery@n2"]


def test_a_late_task_whose_end_was_not_reported_runs_again(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start_ready("n1")
    result = fleet.send("hold_late", "unreported")
    wait_for(lambda: client.exists("test:began:unreported"))
    client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    try:
        client.lpush("test:release:unreported", "go")
        wait_for(lambda: "now. The node tries again" in fleet.log("n1"))
        fleet.stop("n1", signal.SIGKILL)
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+evalsha")
    client.lpush("test:release:unreported", "go")
    fleet.start_ready("n2")
    wait_for(lambda: client.lrange("test:ended:unreported", 0, -1) == ["celery@n1", "celery@n2"])
    result.get(timeout=20)


def test_acknowledged_messages_leave_no_keys(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("n1", "-P", "threads", slots=8)
    for result in fleet.plugin.dispatch_many(
        fleet.app.signature("tests.support.app.where_am_i", options={"minsched": {"pool": "asr"}})
        for _ in range(400)
    ):
        result.get(timeout=30)
    fleet.wait_idle()
    assert client.keys("minsched.*") == []


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_busy_node_survives_a_killed_redis(pool: str) -> None:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    fleet = Fleet(server, **FAST)
    try:
        fleet.start_ready("n1", "-P", pool)
        work = start_work(fleet, 2, "works_late")
        server.stop(signal.SIGKILL)
        wait_for(lambda: "Cannot connect" in fleet.log("n1") or fleet.processes["n1"].poll())
        work.let_end()
        wait_for(lambda: len(work.ended) == 2)
        server.start()
        wait_for(lambda: fleet.log("n1").count("Connected to") == 2)
        assert stored(fleet.send("note", "after")) == "after"
        fleet.wait_idle()
        assert fleet.processes["n1"].poll() is None
        assert len(work.ended) == 2
        with server.client() as client:  # kombu's mutex has a TTL
            assert set(client.keys("minsched.*")) <= {"minsched.unacked_mutex.n1"}
    finally:
        fleet.close()
        server.close()


def test_a_reserved_job_is_not_lost_while_its_node_reconnects() -> None:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    fleet = Fleet(server, **FAST | {"lease": 2.0})
    try:
        fleet.start_ready("n1", "-c", "1", slots=3)  # one process, three slots
        work = start_work(fleet, 3, "works_late", at_once=1)
        server.stop(signal.SIGKILL)
        wait_for(lambda: fleet.log("n1").count("Cannot connect") == 2)
        server.start()  # the pulse reconnects at once, and the worker after two seconds
        work.let_end()
        for job in work.jobs:
            wait_for(lambda job=job: fleet.job(job.id).status == "finished")  # type: ignore[union-attr]
        assert len(work.ended) == 3
    finally:
        fleet.close()
        server.close()


def test_a_delayed_job_without_a_message_is_reported_lost(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    retry = desk.send(task_id="t", due_ts=10**15)
    client.delete(desk.service.keys("job_queue", retry.job_id))
    client.zadd(desk.service.keys("delayed"), {retry.job_id: 100})
    desk.beat("n1")
    assert desk.service.claim_lost_job() == retry.job_id


@pytest.mark.parametrize("retry_status", ["delayed", "lost"])
def test_a_lost_attempt_is_reported_only_without_an_active_retry(
    desk: Desk, client: redis.Redis, retry_status: str
) -> None:
    desk.node("n1", 1)
    keys = desk.service.keys
    attempt = desk.dispatch(task_id="t")
    desk.service.claim_job(attempt.job_id, "n1", "tag")
    client.hset(keys("node_unacked", "n1"), "tag", "[]")
    client.zadd(keys("node_unacked_index", "n1"), {"tag": 1})
    client.sadd(keys("node_acked", "n1"), "tag")
    retry = desk.send(task_id="t", due_ts=10**15)
    lists = set(client.keys("minsched.job.*"))
    if retry_status == "lost":
        client.delete(*lists)
        desk.service.repair_job(None, retry.job_id)
        client.zrem(keys("lost"), retry.job_id)  # as after its report
        lists = set()
    silence(desk, "n1", 60_000)
    desk.service.rescue_node("n1")
    unreported = desk.service.claim_lost_job()
    assert unreported == (attempt.job_id if retry_status == "lost" else "")
    left = set(client.keys("minsched.*")) - lists
    assert bool(left) == (retry_status == "lost")  # the report needs the message


def test_the_message_of_an_ended_job_is_discarded_when_it_is_parked(
    desk: Desk, client: redis.Redis
) -> None:
    """The same step must do both, because the rescuer may die after it."""
    plugin: Any = SimpleNamespace(scheduler=desk.service, app=make_app("redis://127.0.0.1:1/0"))
    desk.node("n1", 1)
    keys = desk.service.keys
    ended, revoked = desk.dispatch(), desk.send(task_id="t")
    desk.service.revoke_tasks(["t"], "n1")
    desk.complete(ended)
    client.delete(keys("node_queue", "n1"))
    for job in (ended, revoked):
        message = {"headers": {"id": "", "minsched": {"job_id": job.job_id, "demand": {}}}}
        client.hset(keys("node_unacked", "n1"), job.job_id, json.dumps([message, "", ""]))
    assert sorted(park_messages(plugin, "n1")) == sorted([ended.job_id, revoked.job_id])
    assert client.keys("minsched.*") == [keys("job_queue", revoked.job_id)]
    desk.beat("n1")
    assert len(desk.queue("n1")) == 1  # the worker of n1 notifies the caller of the revoked job
