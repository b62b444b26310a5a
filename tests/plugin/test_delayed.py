"""Delayed, revoked and expired tasks on real nodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery.exceptions import TaskRevokedError

from ..support.crowd import held, mark, marks, node_of, sig, status, wait_quiet, wait_status
from ..support.due_times import lateness, soon
from ..support.fixtures import fleet_on_empty, kept_client, quiet_fleet
from ..support.fleet import FAST, Fleet, wait_for
from ..support.server import Server, milliseconds

#: Greatest delay of a job after its due time, in seconds: some heartbeats on a busy machine.
LATE = 2.0

client, fleet = kept_client, quiet_fleet


@pytest.fixture(scope="module")
def nodes(_server: Server) -> Iterator[Fleet]:
    with fleet_on_empty(_server) as fleet:
        for node_id in ("a", "b"):
            fleet.start(node_id, "-P", "threads", slots=1)
        fleet.wait_online("a", "b")
        yield fleet


class TestDelayed:
    @pytest.mark.parametrize(
        "when", [lambda s: {"countdown": s}, lambda s: {"eta": soon(s)}], ids=["countdown", "eta"]
    )
    def test_a_delayed_task_takes_no_slot_before_its_due_time(
        self, fleet: Fleet, client: redis.Redis, when: Any
    ) -> None:
        """No worker has the task in memory.

        At its due time the task goes to a node with a free slot.
        """
        with held(fleet, client, "a"):
            later = fleet.send("where_am_i", **when(60))
            assert status(fleet, later) == "delayed"
            assert [fleet.node(name).current_jobs for name in "ab"] == [1, 0]  # type: ignore[union-attr]
            inspect = fleet.app.control.inspect(timeout=60, destination=["celery@a", "celery@b"])
            for answer in (inspect.scheduled(), inspect.reserved()):
                assert sorted(answer) == ["celery@a", "celery@b"]
                assert all(later.id not in str(tasks) for tasks in answer.values())
            later.revoke()
            result = fleet.send("where_am_i", **when(0.5))
            assert result.get(timeout=20)["hostname"] == "celery@b"
        assert 0 <= lateness(client, result)[0] < LATE

    def test_a_delayed_retry_takes_no_slot_before_its_due_time(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        result = fleet.send("retries", 1.0)
        wait_for(lambda: status(fleet, result) == "delayed")
        fleet.wait_idle()
        assert node_of(fleet, result) == ""
        assert result.get(timeout=20)["demand"] == {"pool": "asr"}
        assert 0 <= lateness(client, result)[0] < LATE

    def test_a_due_task_waits_if_all_nodes_are_full(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        with held(fleet, client, "a", "b") as (_, b):
            result = fleet.send("where_am_i", countdown=0.2)
            wait_status(fleet, "waiting", result)
            assert lateness(client, result)[0] < LATE
            b.release()
            assert result.get(timeout=20)["hostname"] == "celery@b"

    def test_tasks_that_fall_due_during_their_batch_run_in_time(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        results = fleet.plugin.dispatch_many(
            mark(fleet.app, "short", n, countdown=0.02) for n in range(200)
        )
        marks(client, "short", 200)
        assert lateness(client, *results)[-1] < LATE

    def test_many_tasks_with_the_same_due_time_run_in_time(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        """Most tasks wait in line after their due time."""
        eta = soon(5)
        results = fleet.plugin.dispatch_many(
            mark(fleet.app, "crowd", n, eta=eta) for n in range(600)
        )
        assert {status(fleet, result) for result in results[:5]} == {"delayed"}
        assert sorted(map(int, marks(client, "crowd", 600))) == list(range(600))
        assert lateness(client, *results)[-1] < LATE


class TestCancelled:
    """The caller gets an error, the signal is sent, and no slot or message is left."""

    @pytest.mark.parametrize("delayed", [False, True], ids=["waiting", "delayed"])
    @pytest.mark.parametrize("why", ["revoked", "expired"])
    def test_a_revoked_or_expired_task_never_runs(
        self, fleet: Fleet, client: redis.Redis, why: str, delayed: bool
    ) -> None:
        options: dict[str, Any] = {"countdown": 60} if delayed else {}
        if why == "expired":
            options["expires"] = 0.5
        with held(fleet, client, "a", "b"):
            result = fleet.send("note", "never", **options)
            wait_status(fleet, "delayed" if delayed else "waiting", result)
            if why == "revoked":
                result.revoke()
            with pytest.raises(TaskRevokedError):
                result.get(timeout=20)
            assert result.state == "REVOKED"
            wait_for(lambda: client.lrange(f"test:revoked:{result.id}", 0, -1) == [why])
            job = fleet.job(result.id)
            assert job is not None
            assert (job.status, job.reason) == ("failed", why)
            assert [fleet.node(name).current_jobs for name in "ab"] == [1, 1]  # type: ignore[union-attr]
            assert not client.keys("minsched.job.*")
        assert not client.exists("test:began:never")

    def test_many_tasks_that_expire_together_never_run(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        with held(fleet, client, "a", "b"):
            results = fleet.plugin.dispatch_many(
                sig(fleet.app, "note", "never", expires=1.0) for _ in range(300)
            )
            wait_for(lambda: not fleet.views.lines(), "all tasks to expire")
            for result in results:
                with pytest.raises(TaskRevokedError):
                    result.get(timeout=20)
        assert not client.exists("test:began:never")

    def test_many_tasks_that_are_revoked_together_never_run(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        """Each caller gets one notification. The queues of the nodes stay short."""
        with held(fleet, client, "a", "b"):
            results = fleet.plugin.dispatch_many(
                sig(fleet.app, "note", "never") for _ in range(600)
            )
            fleet.app.control.revoke([result.id for result in results])
            longest = 0
            while client.exists("scheduler:lines", "scheduler:expiring"):
                longest = max(longest, *(client.llen(f"minsched.node.{name}") for name in "ab"))
            assert longest <= 100
            wait_status(fleet, "failed", *results)
            for result in results:
                with pytest.raises(TaskRevokedError):
                    result.get(timeout=20)
        wait_quiet(fleet, client)  # the workers have discarded all messages
        assert {client.llen(f"test:revoked:{result.id}") for result in results} == {1}
        assert not client.exists("test:began:never")

    def test_a_waiting_task_can_be_terminated(self, fleet: Fleet, client: redis.Redis) -> None:
        """``celery control terminate`` is another command than ``revoke``."""
        with held(fleet, client, "a", "b"):
            result = fleet.send("note", "never")
            wait_status(fleet, "waiting", result)
            fleet.app.control.broadcast(
                "terminate", arguments={"signal": "TERM", "task_id": [result.id]}
            )
            with pytest.raises(TaskRevokedError):
                result.get(timeout=20)
            wait_status(fleet, "failed", result)

    def test_one_call_revokes_several_tasks(self, fleet: Fleet, client: redis.Redis) -> None:
        with held(fleet, client, "a", "b") as (a, _):
            results = [fleet.send("note", f"several{n}") for n in range(6)]
            wait_status(fleet, "waiting", *results)
            fleet.app.control.revoke([result.id for result in results[:4]])
            wait_status(fleet, "failed", *results[:4])
            a.release()
            assert [r.get(timeout=20) for r in results[4:]] == ["several4", "several5"]
        assert not client.exists(*(f"test:began:several{n}" for n in range(4)))

    def test_a_task_that_is_revoked_between_line_and_node_never_runs(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        """The task has left the line. Celery's worker discards it, and the slot is free."""
        with held(fleet, client, "a", "b") as (a, _):
            result = fleet.send("note", "late", 0.2)
            wait_status(fleet, "waiting", result)
            result.revoke()
            a.release()
            with pytest.raises(TaskRevokedError):
                result.get(timeout=20)
        fleet.wait_idle()


def test_delayed_tasks_survive_a_restart_of_every_process() -> None:
    """The server has an append-only file."""
    server = Server("--appendonly", "yes")
    fleet = Fleet(server, **FAST)
    try:
        fleet.start_ready("a", "-P", "threads", slots=4)
        first = soon(4)
        etas = [first + timedelta(milliseconds=n) for n in range(1000)]
        results = fleet.plugin.dispatch_many(
            mark(fleet.app, "kept", n, eta=eta) for n, eta in enumerate(etas)
        )
        fleet.stop("a")
        server.stop()
        still_delayed = sum(eta > datetime.now(UTC) for eta in etas)  # fewer on a slow machine
        server.start()
        with server.client() as client:
            assert client.zcard("scheduler:delayed") >= still_delayed
            assert len(client.keys("minsched.job.*")) >= still_delayed
            fleet.start("b", "-P", "threads", slots=4)
            fleet.start("c", "-P", "threads", slots=2)
            fleet.wait_online("b", "c")
            back = milliseconds(client)
            order = list(map(int, marks(client, "kept", 1000, patience=60)))
            assert sorted(order) == list(range(1000))
            assert lateness(client, *results, since=back)[-1] < LATE
            wait_quiet(fleet, client)
    finally:
        fleet.close()
        server.close()
