"""Redis restarts, loses data, refuses commands or is slow.

Callers get errors, and nodes continue to run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from celery_minsched.consistency.checker import Checker

from ..support.fixtures import module_client
from ..support.fleet import FAST, Fleet, stored, wait_for
from ..support.proxy import Proxy
from ..support.server import Server, free_port
from ..support.work import start_work

NODES = {"prefork": "n1", "threads": "n2"}
SLOTS = 4

client = module_client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


@pytest.fixture(scope="module")
def _fleet(server: Server) -> Iterator[Fleet]:
    fleet = Fleet(server, **FAST)
    for pool, node_id in NODES.items():
        fleet.start(node_id, "-P", pool, slots=2)
    fleet.wait_online(*NODES.values())
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(_fleet: Fleet) -> Iterator[Fleet]:
    """Two nodes. After each test they run a job, and all their slots are free."""
    yield _fleet
    for node_id in NODES.values():
        _fleet.wait_online(node_id)
        demand = {"preferred_node": node_id, "affinity": "require"}
        place = stored(_fleet.send("where_am_i", minsched=demand))
        assert place["hostname"] == f"celery@{node_id}"
    _fleet.wait_idle()
    assert Checker(_fleet.views).check() == []


def wait_finished(fleet: Fleet, jobs: list[AsyncResult]) -> None:
    for job in jobs:
        wait_for(
            lambda job=job: (view := fleet.job(job.id)) and view.status == "finished",  # type: ignore[misc]
            f"{fleet.job(job.id)} to finish",
        )


def test_a_dispatch_works_after_a_script_flush(fleet: Fleet, client: redis.Redis) -> None:
    client.script_flush()
    assert fleet.send("add", 1, 2).get(timeout=20) == 3


def test_a_killed_redis_that_keeps_its_data_loses_no_job(fleet: Fleet, server: Server) -> None:
    work = start_work(fleet, SLOTS)
    in_line = [fleet.send("add", n) for n in range(6)]
    server.stop(signal.SIGKILL)
    with pytest.raises(OperationalError):
        fleet.send("add", 1)
    work.let_end()
    server.start()
    wait_finished(fleet, work.jobs)
    assert [stored(result) for result in in_line] == list(range(6))


def test_a_read_only_redis_loses_no_job(fleet: Fleet, client: redis.Redis) -> None:
    """After a failover the server may be a replica."""
    work = start_work(fleet, SLOTS)
    in_line = fleet.send("add", 1)
    client.replicaof("127.0.0.1", str(free_port()))
    try:
        with pytest.raises(OperationalError, match="read only"):
            fleet.send("add", 1)
        work.let_end()
        wait_for(lambda: len(work.ended) == SLOTS)
        for node_id in NODES.values():
            wait_for(lambda node_id=node_id: "read only replica" in fleet.log(node_id))
    finally:
        client.replicaof("NO", "ONE")
    wait_finished(fleet, work.jobs)
    assert stored(in_line) == 1


def test_jobs_end_and_nodes_obey_commands_while_redis_is_out_of_memory(
    fleet: Fleet, client: redis.Redis
) -> None:
    """The end of a job frees memory, so it must work."""
    work = start_work(fleet, SLOTS)
    in_line, revoked = fleet.send("add", 1), fleet.send("add", 2)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(OperationalError, match="OOM|maxmemory"):  # noqa: RUF043
            fleet.send("add", 1)
        revoked.revoke()
        fleet.app.control.broadcast("minsched_drain", destination=["celery@n1"])
        wait_for(lambda: fleet.node("n1").draining)  # type: ignore[union-attr]
        wait_for(lambda: fleet.job(revoked.id).status == "failed")  # type: ignore[union-attr]
        work.let_end()
        wait_finished(fleet, work.jobs)
    finally:
        client.config_set("maxmemory", "0")
        fleet.app.control.broadcast("minsched_undrain", destination=["celery@n1"])
    assert stored(in_line) == 1
    wait_for(lambda: not fleet.node("n1").draining)  # type: ignore[union-attr]


def test_running_jobs_are_known_again_after_redis_lost_its_data(
    fleet: Fleet, server: Server
) -> None:
    """The nodes report the jobs that they run. All other jobs are lost."""
    work = start_work(fleet, SLOTS)
    ids = [fleet.job(job.id).job_id for job in work.jobs]  # type: ignore[union-attr]
    server.stop(signal.SIGKILL)
    server.forget()
    server.start()
    for node_id in NODES.values():
        wait_for(lambda node_id=node_id: (node := fleet.node(node_id)) and node.current_jobs == 2)
    work.let_end()
    for job_id in ids:
        wait_for(lambda job_id=job_id: fleet.views.job(job_id).status == "finished")  # type: ignore[union-attr]


def test_a_slow_redis_does_not_block_the_worker(server: Server, client: redis.Redis) -> None:
    """Each reply takes 200 ms. The worker's event loop waits for no reply to the scheduler."""
    proxy = Proxy(server.port)
    fleet = Fleet(server, broker=proxy.url, **FAST)
    try:
        fleet.start_ready("far", "-P", "threads", pool="far", slots=4)
        proxy.delay = 0.1
        results = [fleet.send("add", n, minsched={"pool": "far"}) for n in range(8)]
        before = fleet.node("far").last_heartbeat_ts  # type: ignore[union-attr]
        answer = fleet.app.control.inspect(["celery@far"], timeout=60).ping()
        assert answer == {"celery@far": {"ok": "pong"}}
        assert [result.get(timeout=30) for result in results] == list(range(8))
        wait_for(lambda: fleet.node("far").last_heartbeat_ts > before + 2000)  # type: ignore[union-attr]
        assert fleet.node("far").online  # type: ignore[union-attr]
        proxy.delay = 0.0
    finally:
        fleet.close()
        proxy.close()


def test_still_mine_raises_an_error_if_redis_is_unreachable(fleet: Fleet, server: Server) -> None:
    work = start_work(fleet, task="asks_blindly", minsched={"preferred_node": "n1"})
    server.stop(signal.SIGKILL)
    wait_for(lambda: work.ended)
    server.start()
    assert work.ended == ["OperationalError"]
    wait_finished(fleet, work.jobs)


def test_a_requeue_is_retried_while_redis_does_not_reply(tmp_path: Path) -> None:
    """Celery's worker alone would log an error and lose the message."""
    server = Server()
    celery = {"broker_transport_options": {"socket_timeout": 0.5}}
    fleet = Fleet(server, celery=celery)
    try:
        fleet.start_ready("n1", "-P", "threads")
        path = tmp_path / "go"
        result = fleet.send("hold_by_file", str(path), True)
        wait_for(lambda: fleet.job(result.id).status == "running")  # type: ignore[union-attr]
        server.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        path.touch()
        wait_for(lambda: "Redis is away" in fleet.log("n1"))
        server.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        wait_for(lambda: fleet.job(result.id).status == "finished")  # type: ignore[union-attr]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()
        server.close()
