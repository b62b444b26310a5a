"""A failover to another Redis server, by Sentinel or behind the same host name."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from celery_minsched.consistency.checker import Checker

from ..support.fleet import FAST, Fleet, make_app, stored, wait_for
from ..support.proxy import Proxy
from ..support.server import Server, free_port, program
from ..support.work import start_work


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A master and its replica."""
    at_once = ("--repl-diskless-sync-delay", "0")  # the default is 5 seconds
    master = Server(*at_once)
    replica = Server("--replicaof", "127.0.0.1", str(master.port), *at_once)
    with replica.client() as client:
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
    yield master, replica
    master.close()
    replica.close()


@pytest.fixture
def sentinel(servers: tuple[Server, Server], tmp_path: Path) -> Iterator[redis.Redis]:
    """A sentinel that considers the master down after half a second."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\n"
        f"sentinel monitor main 127.0.0.1 {servers[0].port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 5000\n"
    )
    process = subprocess.Popen(
        [program(), str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    with redis.Redis(port=port, decode_responses=True) as client:

        def knows_the_replica() -> bool:
            try:
                return len(client.sentinel_slaves("main")) == 1
            except redis.RedisError:
                return False

        wait_for(knows_the_replica)
        yield client
    process.terminate()
    process.wait(60)


def test_a_failover_by_sentinel_that_loses_the_last_second_loses_no_job(
    servers: tuple[Server, Server], sentinel: redis.Redis
) -> None:
    master, replica = servers
    url = f"sentinel://127.0.0.1:{sentinel.connection_pool.connection_kwargs['port']}/0"
    names = ("broker_transport_options", "result_backend_transport_options")
    options: dict[str, Any] = {name: {"master_name": "main"} for name in names}
    fleet = Fleet(master, broker=url, celery=options, **FAST)
    fleet.app = make_app(url, **options)
    try:
        fleet.start_ready("n1", "-P", "threads", slots=4)
        work = start_work(fleet, 2)
        with master.client() as client:
            # The master stops the replication.
            client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
            client.client_kill_filter(_type="replica")
        lost = start_work(fleet, 1)
        master.stop(signal.SIGKILL)

        def send() -> AsyncResult | None:
            try:
                return fleet.send("add", 1, 2, ignore_result=True)
            except OperationalError:
                return None

        sent = wait_for(send)
        with replica.client() as client:
            wait_for(lambda: client.info("replication")["role"] == "master")
        wait_for(lambda: (node := fleet.node("n1")) and node.online)
        wait_for(lambda: fleet.node("n1").current_jobs == 3)  # type: ignore[union-attr]
        assert fleet.job(lost.jobs[0].id) is None
        work.let_end()
        lost.let_end()
        for job in (*work.jobs, sent):
            wait_for(lambda job=job: fleet.job(job.id).status == "finished")  # type: ignore[union-attr]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_a_failover_behind_the_same_host_name_loses_no_job(servers: tuple[Server, Server]) -> None:
    """Hosted services do this: the old server is read-only, and the name gets a new address."""
    master, replica = servers
    name = Proxy(master.port)
    fleet = Fleet(master, broker=name.url, **FAST)
    fleet.app = make_app(name.url)
    try:
        fleet.start_ready("n1", "-P", "threads", slots=2)
        work = start_work(fleet, 2)
        in_line = fleet.send("add", 1, 2)
        with master.client() as old, replica.client() as new:
            offset = old.info("replication")["master_repl_offset"]
            wait_for(lambda: new.info("replication")["slave_repl_offset"] >= offset)
            new.replicaof("NO", "ONE")
            name.target = replica.port  # for new connections only
            old.replicaof("127.0.0.1", str(replica.port))
        work.let_end()
        for job in work.jobs:
            wait_for(lambda job=job: fleet.job(job.id).status == "finished")  # type: ignore[union-attr]
        assert stored(in_line) == 3
        assert stored(fleet.send("add", 3, 4)) == 7
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()
        name.close()
