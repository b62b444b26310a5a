"""Each way in which a task can end frees its slot and gives its job a status and a reason.

The rows follow Celery 5.7. The hook of the worker that sees an ending depends on the ending and
on the pool (prefork or threads).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from kombu import Connection

from celery_minsched import DispatchRequest
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.keys import queue_name
from celery_minsched.monitor.models import JobView
from celery_minsched.plugin.header import HEADER

from ..support.fleet import Fleet, stored, wait_for
from ..support.server import Server
from ..support.work import start_work

NODE = "n1"


@pytest.fixture(scope="module", params=["prefork", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def fleet(_server: Server, pool: str) -> Iterator[Fleet]:
    """One node, shared by all tests of this module."""
    with _server.client() as client:
        client.flushall()
    fleet = Fleet(_server)
    fleet.start_ready(NODE, "-P", pool, "-c", "3", slots=3)
    yield fleet
    fleet.close()


def ended(fleet: Fleet, task_id: str) -> JobView:
    """Wait until the task's job has ended and its slot is free. Returns the job."""

    def ended_job() -> JobView | None:
        job = fleet.job(task_id)
        return job if job and job.ended_ts else None

    job: JobView = wait_for(
        ended_job, f"the end of {task_id}: {fleet.job(task_id)}\n{fleet.log_tail(NODE)}"
    )
    fleet.wait_idle()
    assert Checker(fleet.views).check() == []
    return job


@dataclass(frozen=True)
class Row:
    task: str
    state: str  # of Celery's result
    status: str
    reason: str = ""
    only: str = ""  # the pool with this ending: threads cannot be killed

    def __str__(self) -> str:
        return self.task


ROWS = [
    Row("where_am_i", "SUCCESS", "finished"),
    Row("late", "SUCCESS", "finished"),
    Row("fails", "FAILURE", "failed", "ValueError"),
    Row("fails_late", "FAILURE", "failed", "ValueError"),
    Row("retries", "SUCCESS", "finished"),
    Row("rejects", "FAILURE", "failed", "Reject"),
    Row("requeues", "SUCCESS", "finished"),
    Row("too_long_softly", "FAILURE", "failed", "SoftTimeLimitExceeded", only="prefork"),
    Row("too_long", "FAILURE", "failed", "TimeLimitExceeded", only="prefork"),
    Row("killed", "FAILURE", "failed", "WorkerLostError", only="prefork"),
    Row("killed_late", "FAILURE", "failed", "WorkerLostError", only="prefork"),
    Row("killed_and_requeued", "SUCCESS", "finished", only="prefork"),
    Row("killed_and_retried", "SUCCESS", "finished", only="prefork"),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_an_ending_with_a_result_frees_the_slot(fleet: Fleet, pool: str, row: Row) -> None:
    if row.only not in ("", pool):
        pytest.skip(f"{row.task} can only happen with {row.only}")
    result = fleet.send(row.task)
    wait_for(result.ready, f"{row.task}\n{fleet.log_tail(NODE)}")
    assert result.state == row.state
    job = ended(fleet, result.id)
    assert (job.status, job.reason, job.node_id) == (row.status, row.reason, NODE)


@pytest.mark.parametrize(
    ("task", "status", "reason"),
    [
        ("too_long_once", "finished", ""),
        ("ignores", "finished", "ignored"),
        ("requeues_early", "failed", "Reject"),
        ("exits", "failed", "SystemExit"),
        ("cannot_be_stored", "failed", "ConnectionError"),
    ],
)
def test_an_ending_without_a_result_frees_the_slot(
    fleet: Fleet, pool: str, task: str, status: str, reason: str
) -> None:
    if task == "too_long_once" and pool == "threads":
        pytest.skip("threads have no time limits")
    result = fleet.send(task)
    job = ended(fleet, result.id)
    if task == "exits" and pool == "threads":
        reason = "WorkerLostError"
    assert (job.status, job.reason) == (status, reason)


def test_each_attempt_of_a_retry_is_a_job_of_its_own(fleet: Fleet, client: Any) -> None:
    result = fleet.send("retries", minsched={"session_id": "u7"})
    place = result.get(timeout=20)
    assert place["node_id"] == NODE
    assert place["demand"] == {"pool": "asr", "session_id": "u7"}
    ended(fleet, result.id)
    jobs = [fleet.views.job(key.removeprefix("scheduler:job:")) for key in job_keys(client)]
    of_task = [job for job in jobs if job and job.task_id == result.id]
    ends = sorted((job.status, job.reason) for job in of_task)
    assert ends == [("failed", "retry"), ("failed", "retry"), ("finished", "")]


def job_keys(client: Any) -> list[str]:
    return [key for key in client.scan_iter("scheduler:job:u7:*") if client.type(key) == "hash"]


@pytest.fixture
def client(_server: Server) -> Iterator[Any]:
    with _server.client() as client:
        yield client


def test_a_task_that_is_revoked_or_expired_before_its_node_receives_it_fails(fleet: Fleet) -> None:
    work = start_work(fleet, 3)
    revoked = fleet.send("where_am_i")
    revoked.revoke()
    expired = fleet.send("where_am_i", expires=0.1)
    overdue = time.time() + 0.2
    wait_for(lambda: time.time() > overdue)
    work.let_end()
    for result, reason in ((revoked, "revoked"), (expired, "expired")):
        job = ended(fleet, result.id)
        assert (result.state, job.status, job.reason) == ("REVOKED", "failed", reason)


def test_a_task_can_be_revoked_while_its_rate_limit_delays_it(fleet: Fleet) -> None:
    fleet.send("hourly").get(timeout=20)
    delayed = [fleet.send("hourly") for _ in range(2)]
    wait_for(lambda: all(fleet.job(r.id).status == "running" for r in delayed))  # type: ignore[union-attr]
    fleet.app.control.revoke([result.id for result in delayed])
    for result in delayed:
        job = ended(fleet, result.id)
        assert (result.state, job.status, job.reason) == ("REVOKED", "failed", "revoked")


def test_each_task_of_a_celery_batches_call_frees_its_slot(fleet: Fleet) -> None:
    results = [fleet.send("together") for _ in range(3)]
    assert [stored(result) for result in results] == [3, 3, 3]
    assert {ended(fleet, result.id).status for result in results} == {"finished"}


def test_a_running_task_can_be_terminated(fleet: Fleet, pool: str, client: Any) -> None:
    result = fleet.send("hold", "terminated")
    wait_for(lambda: client.exists("test:began:terminated"))
    fleet.app.control.revoke(result.id, terminate=True)
    if pool == "threads":
        client.lpush("test:release:terminated", "go")
    job = ended(fleet, result.id)
    if pool == "prefork":
        assert (job.status, job.reason) == ("failed", "Terminated")
    else:  # a thread cannot be killed
        assert job.status == "finished"


def send_raw(fleet: Fleet, body: Any, task: str, **message: Any) -> str:
    """Send a message that Celery would not send, for a job with a slot. Returns the task's id."""
    task_id = f"raw-{task}-{sorted(message)}"
    request = DispatchRequest(pool="asr", task_id=task_id)
    place = fleet.plugin.scheduler.dispatch_task(request)
    headers = {
        "id": task_id,
        "task": task,
        "lang": "py",
        "eta": None,
        "expires": None,
        HEADER: {"demand": {"pool": "asr"}, "job_id": place.job_id, "node_id": NODE},
        **message.pop("headers", {}),
    }
    with Connection(fleet.server.url) as connection:
        connection.Producer().publish(
            body,
            routing_key=queue_name(NODE),
            exchange="",
            headers={name: value for name, value in headers.items() if value != "absent"},
            **{"content_type": "application/json", "content_encoding": "utf-8", **message},
        )
    return task_id


GOOD_BODY = json.dumps(
    [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
)
KNOWN = "tests.support.app.where_am_i"


@pytest.mark.parametrize(
    ("body", "task", "message", "reason"),
    [
        pytest.param(GOOD_BODY, "tests.support.app.gone", {}, "unregistered", id="unregistered"),
        pytest.param("{]", KNOWN, {}, "undecodable", id="undecodable"),
        pytest.param(
            b"\x80\x04N.",
            KNOWN,
            {"content_type": "application/x-python-serialize"},
            "",
            id="pickle",
        ),
        pytest.param(GOOD_BODY, KNOWN, {"headers": {"eta": "soon"}}, "", id="bad eta"),
        pytest.param(GOOD_BODY, KNOWN, {"headers": {"task": "absent"}}, "", id="no task header"),
        pytest.param("[1]", KNOWN, {}, "", id="body of another shape"),
    ],
)
def test_a_message_that_is_no_task_fails_its_job(
    fleet: Fleet, body: Any, task: str, message: dict[str, Any], reason: str
) -> None:
    task_id = send_raw(fleet, body, task, **message)
    job = ended(fleet, task_id)
    assert job.status == "failed"
    assert job.reason
    assert reason in ("", job.reason)


def test_each_task_runs_once_although_the_broker_connection_is_lost(
    fleet: Fleet, client: Any
) -> None:
    running = [fleet.send("note", f"cut{n}", 1.5) for n in range(3)]
    waiting = [fleet.send("note", f"cut{n}") for n in range(3, 6)]
    wait_for(lambda: all(client.exists(f"test:began:cut{n}") for n in range(3)))
    fleet.cut(NODE)
    for result in [*running, *waiting]:
        result.get(timeout=30)
        assert ended(fleet, result.id).status == "finished"
    assert [client.llen(f"test:ended:cut{n}") for n in range(6)] == [1] * 6


def test_a_worker_reconnects_while_a_child_process_ends(fleet: Fleet, pool: str) -> None:
    if pool == "threads":
        pytest.skip("a pool of threads has no child processes")
    result = fleet.send("seems_to_end")
    assert ended(fleet, result.id).status == "finished"
    connected = fleet.log(NODE).count("Connected to")
    fleet.cut(NODE)
    wait_for(lambda: fleet.log(NODE).count("Connected to") > connected, fleet.log_tail(NODE))
    assert fleet.send("add", 1, 2).get(timeout=20) == 3


def test_a_memory_error_frees_the_slot(fleet: Fleet, pool: str) -> None:
    """This test runs last: with prefork, a memory error ends Celery's worker."""
    result = fleet.send("out_of_memory")
    job = ended(fleet, result.id)
    assert (job.status, job.reason) == ("failed", "MemoryError")
    if pool == "prefork":
        fleet.processes[NODE].wait(60)
        fleet.start_ready(NODE, slots=3)  # a new process may use the id at once
