"""The node agent as a real process, from its start to its stop, and its response to failures."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from click.testing import CliRunner

from celery_minsched.consistency.checker import Checker
from node_agent.cli import main

from ..support.fixtures import fast_fleet
from ..support.fleet import FAST, ROOT, Fleet, app_environment, wait_for
from ..support.forked import NodeProcess
from ..support.server import Server, free_port
from ..support.work import start_work

fleet = fast_fleet


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stopped_node_leaves_no_message_and_no_process(
    fleet: Fleet, client: redis.Redis, pool: str
) -> None:
    fleet.start_ready("n1", "-P", pool)
    assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"
    family = psutil.Process(fleet.processes["n1"].pid).children(recursive=True)
    assert fleet.stop("n1") == 0
    node = fleet.node("n1")
    assert node is not None
    assert (node.online, node.current_jobs) == (False, 0)
    assert client.keys("minsched.*") == []
    assert not [process for process in family if process.is_running()]
    fleet.start_ready("n1")  # a new process may use the id at once


def test_a_node_reports_its_load_and_its_jobs(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("n1", "-P", "threads")
    fleet.send("hold", "loaded")
    wait_for(lambda: client.exists("test:began:loaded"))
    node = fleet.node("n1")
    assert node is not None
    assert node.current_jobs == 1
    assert 0 < wait_for(lambda: fleet.node("n1").load.get("mem")) <= 100  # type: ignore[union-attr]
    client.lpush("test:release:loaded", "go")


def test_the_pulse_beats_while_a_task_holds_the_interpreter(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start_ready("n1", "-P", "threads", "--without-heartbeat")
    fleet.send("hogs", 4.0)
    wait_for(lambda: client.exists("test:hogging"))
    before = fleet.node("n1")
    assert before is not None
    later = before.last_heartbeat_ts + 3000  # more than node_ttl
    wait_for(lambda: fleet.node("n1").last_heartbeat_ts > later)  # type: ignore[union-attr]
    assert fleet.node("n1").online  # type: ignore[union-attr]
    fleet.wait_idle()


def test_the_slots_follow_the_size_of_the_worker_pool(fleet: Fleet) -> None:
    fleet.start_ready("n1", slots=2)
    control = fleet.app.control

    def slots() -> int:
        node = fleet.node("n1")
        return node.max_jobs if node else 0

    wait_for(lambda: control.ping(destination=["celery@n1"]), "n1 to answer to remote control")
    control.pool_grow(2, destination=["celery@n1"])
    wait_for(lambda: slots() == 4)
    control.pool_shrink(1, destination=["celery@n1"])
    wait_for(lambda: slots() == 3)
    fleet.start_ready("n2", "--autoscale", "5,1", slots=5)
    assert fleet.node("n2").max_jobs == 5  # type: ignore[union-attr]


def test_a_solo_pool_has_one_slot(fleet: Fleet) -> None:
    fleet.processes["n1"] = NodeProcess(
        ["-A", "tests.support.app", "--node-id", "n1", "--pool", "asr", "-P", "solo", "-c", "4"],
        fleet.environment,
        fleet.log_path("n1"),
    )
    fleet.wait_online("n1")
    assert fleet.node("n1").max_jobs == 1  # type: ignore[union-attr]
    assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"


def test_a_second_node_with_the_same_id_does_not_start(fleet: Fleet) -> None:
    fleet.start_ready("n1")
    fleet.start("again", "--node-id", "n1")
    assert fleet.processes["again"].wait(60) == 1
    pid = fleet.processes["n1"].pid
    assert f"node id 'n1' is held by {os.uname().nodename}/{pid}/" in fleet.log("again")
    assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"


def test_a_node_finishes_its_jobs_while_redis_is_stopped(client: redis.Redis) -> None:
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    fleet = Fleet(server, **FAST)
    try:
        fleet.start_ready("n1", "-P", "threads", slots=3)
        work = start_work(fleet, 2)
        server.stop()
        wait_for(lambda: "Redis is away" in fleet.log("n1"))
        work.let_end()
        wait_for(lambda: len(work.ended) == 2)
        server.start()
        fleet.wait_idle()
        for result in work.jobs:
            wait_for(lambda result=result: fleet.job(result.id).status == "finished")  # type: ignore[union-attr]
        wait_for(lambda: "n1 sends heartbeats again" in fleet.log("n1"))
        assert fleet.log("n1").count("Redis is away. Tasks go on") == 1
        assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()
        server.close()


def test_a_node_registers_again_after_redis_lost_its_data(
    fleet: Fleet, server: Server, client: redis.Redis
) -> None:
    fleet.start_ready("n1", "-P", "threads", slots=3)
    work = start_work(fleet)
    [job_id] = [fleet.job(job.id).job_id for job in work.jobs]  # type: ignore[union-attr]
    client.flushall()
    wait_for(lambda: fleet.node("n1") and fleet.node("n1").current_jobs == 1)  # type: ignore[union-attr]
    work.let_end()
    wait_for(lambda: fleet.views.job(job_id).status == "finished")  # type: ignore[union-attr]
    fleet.wait_idle()


def test_a_node_warns_of_an_eviction_policy_at_its_start(fleet: Fleet, client: redis.Redis) -> None:
    """If Redis does not permit INFO, the node starts without the check."""
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        fleet.start_ready("n1", "-P", "threads")
        assert "Redis has maxmemory-policy allkeys-lru" in fleet.log("n1")
        client.execute_command("ACL", "SETUSER", "default", "-info")
        fleet.start_ready("n2", "-P", "threads")
        assert "maxmemory-policy" not in fleet.log("n2")
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+info")
        client.config_set("maxmemory-policy", "noeviction")


class TestCommandLine:
    @pytest.fixture
    def run(self, server: Server, tmp_path: Path) -> Callable[..., tuple[int, str]]:
        """A function that runs the program to its end. It returns the exit code and the output."""

        def run(*options: str, **env: str) -> tuple[int, str]:
            environment = {**app_environment(server.url), **env}
            process = NodeProcess(list(options), environment, tmp_path / "log")
            return process.wait(60), (tmp_path / "log").read_text()

        return run

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ("--pool asr", "Missing option '--node-id'"),
            ("--node-id n1", "Missing option '--pool'"),
            ("--node-id a:b --pool asr", "'a:b' is not a name"),
            ("--node-id n1 --pool asr --slots 0", "0 is not in the range"),
            ("--node-id n1 --pool asr --lang zh", "'zh' is no language pair such as zh:en"),
            ("--node-id n1 --pool asr --lang z/h:en", "'z/h' is not a language"),
            ("--node-id n1 --pool asr --capability a,b", "'a,b' is not a name"),
            ("--node-id n1 --pool asr --pool asr", "names a pool twice"),
            ("--node-id n1 --pool asr -Q other", "leave out -Q/--queues: a node consumes its own"),
            ("--node-id n1 --pool asr -c auto", "Give --slots too"),
        ],
    )
    def test_a_wrong_option_is_explained(self, run: Any, options: str, text: str) -> None:
        code, output = run("-A", "tests.support.app", *options.split())
        assert code == 2
        assert text in output
        assert "Traceback" not in output

    def test_an_application_without_a_scheduler_is_refused(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "plain.py").write_text("from celery import Celery\napp = Celery('plain')\n")
        code, output = run(
            "-A", "plain", "--node-id", "n1", "--pool", "p", PYTHONPATH=str(tmp_path)
        )
        assert code == 1
        assert "Write MinSched(app) below its Celery(...)." in output

    def test_a_node_without_retries_ends_if_redis_is_unreachable(self, run: Any) -> None:
        away = f"redis://127.0.0.1:{free_port()}/0"
        options = ("-A", "tests.support.app", "--node-id", "n1", "--pool", "p")
        no_patience = {"broker_connection_retry_on_startup": False}
        code, output = run(*options, **app_environment(away, no_patience))
        assert code == 1
        assert "Connection refused" in output
        assert "Traceback" not in output


def test_a_starting_node_waits_for_redis_and_has_a_slot_for_each_process() -> None:
    server = Server()
    server.stop()
    fleet = Fleet(server, celery={"worker_concurrency": 3}, **FAST)
    try:
        args = ["-A", "tests.support.app", "--node-id", "n1", "--pool", "asr"]
        path = fleet.log_path("n1")
        fleet.processes["n1"] = NodeProcess(args, fleet.environment, path)
        wait_for(lambda: "Redis is not ready yet" in fleet.log("n1"))
        server.start()
        with server.client() as client:
            client.config_set("maxmemory", 1)
            wait_for(lambda: "used memory > 'maxmemory'" in fleet.log("n1"))
            client.config_set("maxmemory", 0)
        fleet.wait_online("n1")
        assert fleet.node("n1").max_jobs == 3  # type: ignore[union-attr]
        assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"
    finally:
        fleet.close()
        server.close()


def test_every_option_can_come_from_the_environment(server: Server) -> None:
    """The help names the variable of each option."""
    environment = {
        "NODE_AGENT_NODE_ID": "from-env",
        "NODE_AGENT_POOLS": "asr mt",
        "NODE_AGENT_LANGS": "zh:en en:zh",
        "NODE_AGENT_CAPABILITIES": "gpu whisper",
        "NODE_AGENT_SLOTS": "3",
        "NODE_AGENT_APP": "tests.support.app",
        "NODE_AGENT_WORKER_POOL": "threads",
    }
    named = set(re.findall(r"NODE_AGENT_\w+", CliRunner().invoke(main, ["--help"]).output))
    assert named - set(environment) == {"NODE_AGENT_CONCURRENCY", "NODE_AGENT_AUTOSCALE"}
    fleet = Fleet(server, environment=environment)
    try:
        fleet.processes["env"] = subprocess.Popen(
            [str(Path(sys.executable).parent / "node-agent")],
            cwd=ROOT,
            env=fleet.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        fleet.wait_online("from-env")
        node = fleet.node("from-env")
        assert node is not None
        assert (node.pools, node.max_jobs) == (["asr", "mt"], 3)
        assert node.capabilities == ["gpu", "whisper"]
        demand = {"pool": None, "src_lang": "en", "tgt_lang": "zh"}
        assert fleet.send("where_am_i", minsched=demand).get(timeout=20)
    finally:
        fleet.close()


def test_a_stopping_node_hands_back_the_jobs_that_have_not_begun(
    fleet: Fleet, client: redis.Redis
) -> None:
    fleet.start("n1", "-c", "1", slots=3)  # one process, three slots
    fleet.start("n2", slots=3)
    fleet.wait_online("n1", "n2")
    fleet.plugin.scheduler.drain_node("n2")
    results = [fleet.send("hold", f"stop{n}") for n in range(3)]
    wait_for(lambda: client.exists("test:began:stop0"))
    wait_for(lambda: all(fleet.job(r.id).status == "running" for r in results))  # type: ignore[union-attr]
    fleet.plugin.scheduler.drain_node("n2", draining=False)
    fleet.kill("n1", signal.SIGTERM)
    wait_for(lambda: client.exists("test:began:stop1") and client.exists("test:began:stop2"))
    for n in range(3):  # the first task runs until now
        client.lpush(f"test:release:stop{n}", "go")
    assert fleet.processes["n1"].wait(60) == 0
    for result in results:
        result.get(timeout=20)
    assert client.lrange("test:ended:stop0", 0, -1) == ["celery@n1"]
    assert [client.lrange(f"test:ended:stop{n}", 0, -1) for n in (1, 2)] == [["celery@n2"]] * 2
    fleet.wait_idle()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stopping_node_hands_back_a_job_that_arrives_late(
    fleet: Fleet, client: redis.Redis, pool: str
) -> None:
    """Redis does not know that the node stops, because its pulse is suspended."""
    fleet.start_ready("old", "-P", pool, "-c", "1", slots=3)
    fleet.start_ready("new")
    to_old = {"preferred_node": "old"}
    long = fleet.send("hold", "long", minsched=to_old)
    wait_for(lambda: client.exists("test:began:long"))
    children = psutil.Process(fleet.processes["old"].pid).children()
    pulse = min(children, key=psutil.Process.create_time)
    pulse.suspend()
    fleet.kill("old", signal.SIGTERM)
    wait_for(lambda: "Warm shutdown" in fleet.log("old"))
    short = [fleet.send("note", f"short{n}", minsched=to_old) for n in range(2)]
    assert {fleet.job(result.id).node_id for result in short} == {"old"}  # type: ignore[union-attr]
    pulse.resume()
    for result in short:
        result.get(timeout=60)
    hostnames = [client.lrange(f"test:ended:short{n}", 0, -1) for n in range(2)]
    assert hostnames == [["celery@new"]] * 2
    assert not client.exists("test:ended:long")
    client.lpush("test:release:long", "go")
    long.get(timeout=60)
    assert fleet.processes["old"].wait(30) == 0
