"""The death of a node loses and repeats no job silently, and leaves no state behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import redis
from celery import chain, chord
from celery.result import AsyncResult

from celery_minsched import MaxRescuesExceededError, NodeLostError

from ..support.fixtures import module_client, module_server
from ..support.fleet import FAST, Fleet, checked, wait_for
from ..support.server import Server

NODE_TTL, HEARTBEAT, SLACK = 2000, 300, 3000  # ms
SETTINGS = FAST | {"lease": 2.5, "max_rescues": 2}

server, client = module_server, module_client


@pytest.fixture(scope="module")
def fleet(server: Server) -> Iterator[Fleet]:
    """A node "safe" that survives all tests."""
    with checked(Fleet(server, **SETTINGS)) as fleet:
        fleet.start_ready("safe", "-P", "threads", slots=8)
        yield fleet


def send_to(fleet: Fleet, node_id: str, task: str, *args: object, **options: Any) -> AsyncResult:
    return fleet.send(task, *args, minsched={"preferred_node": node_id}, **options)


def let_go(client: redis.Redis, *names: str) -> None:
    for name in names:
        client.lpush(f"test:release:{name}", "go")


def wait_forgotten(fleet: Fleet, client: redis.Redis, node_id: str) -> None:
    """Wait until Redis has only the node's info and runtime."""
    remains = {f"scheduler:node:info:{node_id}", f"scheduler:node:runtime:{node_id}"}
    wait_for(
        lambda: (
            {key for key in client.keys("*") if node_id in key} == remains
            and not any(node_id in text for text in bindings(client))
        ),
        f"{node_id} to be forgotten: {client.keys('*')}, {bindings(client)}",
    )
    assert fleet.node(node_id).current_jobs == 0  # type: ignore[union-attr]


def bindings(client: redis.Redis) -> list[str]:
    return [member for key in client.keys("_kombu.binding.*") for member in client.smembers(key)]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_kill_9_of_all_processes_of_a_node_loses_no_late_job(
    fleet: Fleet, client: redis.Redis, pool: str
) -> None:
    victim = f"dead-{pool}"
    running, *others = names = [f"{what}-{pool}" for what in ("running", "reserved", "queued")]
    fleet.start_ready(victim, "-P", pool, "-c", "1", slots=3)
    results = [send_to(fleet, victim, "hold_late", name) for name in names[:2]]
    wait_for(lambda: client.exists(f"test:began:{running}"))
    wait_for(lambda: all(fleet.job(r.id).status == "running" for r in results))  # type: ignore[union-attr]
    fleet.deafen(victim)
    results.append(send_to(fleet, victim, "hold_late", names[2]))
    wait_for(lambda: client.exists(f"minsched.node.{victim}", f"minsched.taken.{victim}"))
    fleet.destroy(victim)
    last_heartbeat = fleet.node(victim).last_heartbeat_ts  # type: ignore[union-attr]

    let_go(client, *names)
    for result in results:
        result.get(timeout=20)
    assert client.lrange(f"test:began:{running}", 0, -1) == [f"celery@{victim}", "celery@safe"]
    for name in others:
        assert client.lrange(f"test:began:{name}", 0, -1) == ["celery@safe"]
    for name in names:
        assert client.lrange(f"test:ended:{name}", 0, -1) == ["celery@safe"]
    wait_forgotten(fleet, client, victim)

    for result in results:
        job = fleet.job(result.id)
        assert job is not None
        dispatched_ts = int(client.hget(f"scheduler:job:{job.job_id}", "dispatched_ts") or 0)
        detection_ms = dispatched_ts - last_heartbeat
        assert NODE_TTL < detection_ms < NODE_TTL + HEARTBEAT + SLACK


def test_an_idle_node_that_dies_leaves_no_state(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("idle", "-P", "threads")
    assert any("celery@idle" in text for text in bindings(client))
    fleet.destroy("idle")
    wait_forgotten(fleet, client, "idle")
    assert not client.exists("_kombu.binding.celeryev")  # a node declares no queue for gossip


def test_the_child_processes_of_a_dead_agent_end(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("orphans", "-P", "prefork")
    result = send_to(fleet, "orphans", "hold_late", "orphaned")
    wait_for(lambda: client.exists("test:began:orphaned"))
    family = psutil.Process(fleet.processes["orphans"].pid).children(recursive=True)
    fleet.kill("orphans", signal.SIGKILL)
    wait_for(lambda: client.lrange("test:began:orphaned", 0, -1)[1:] == ["celery@safe"])
    # An orphan finishes its task.
    let_go(client, "orphaned", "orphaned")
    wait_for(
        lambda: not any(process.is_running() for process in family), "the child processes to end"
    )
    result.get(timeout=20)
    wait_forgotten(fleet, client, "orphans")


def test_a_pulse_that_dies_is_restarted(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("heart", "-P", "threads")
    result = send_to(fleet, "heart", "hold", "beating")
    wait_for(lambda: client.exists("test:began:beating"))
    (pulse,) = psutil.Process(fleet.processes["heart"].pid).children()
    pulse.kill()
    dead = fleet.node("heart").last_heartbeat_ts  # type: ignore[union-attr]
    wait_for(lambda: fleet.node("heart").last_heartbeat_ts > dead + NODE_TTL)  # type: ignore[union-attr]
    assert "the pulse process is gone" in fleet.log("heart")
    assert fleet.node("heart").current_jobs == 1  # type: ignore[union-attr]
    let_go(client, "beating")
    result.get(timeout=20)
    assert send_to(fleet, "heart", "where_am_i").get(timeout=20)["hostname"] == "celery@heart"
    assert fleet.stop("heart") == 0


@dataclass
class Wreck:
    """The tasks that the node "wreck" had when it died."""

    early: AsyncResult
    late: AsyncResult
    retried: AsyncResult
    chained: AsyncResult
    chord: AsyncResult
    unnoted: AsyncResult  # Redis sent the message, and the node did not note it


@pytest.fixture(scope="module")
def wreck(fleet: Fleet, client: redis.Redis) -> Wreck:
    """A node dies with a job of each kind."""
    fleet.start_ready("wreck", "-P", "threads", slots=6)

    def task(task: str, *args: object, **demand: object) -> Any:
        demand = {"pool": "asr", "preferred_node": "wreck", **demand}
        return fleet.app.signature(f"tests.support.app.{task}", args).set(minsched=demand)

    early = task("hold", "early")
    early.link_error(fleet.app.signature("tests.support.app.errback"))
    results = Wreck(
        early.apply_async(),
        task("hold_late", "late").apply_async(),
        task("hold_and_retry", "retried").apply_async(),
        chain(task("hold", "chained"), task("add", 1)).apply_async(),
        chord([task("hold", "member")], task("add", 1, preferred_node="safe")).apply_async(),
        unnoted=AsyncResult("none yet", app=fleet.app),
    )
    names = ["early", "late", "retried", "chained", "member"]
    wait_for(lambda: all(client.exists(f"test:began:{name}") for name in names))
    fleet.deafen("wreck")
    results.unnoted = task("note_late", "unnoted").apply_async()
    assert client.blpop("minsched.node.wreck", 5)
    fleet.destroy("wreck")
    let_go(client, "late")
    return results


class TestJobsOfADeadNode:
    def test_the_caller_of_a_lost_early_task_gets_an_error(
        self, fleet: Fleet, wreck: Wreck
    ) -> None:
        with pytest.raises(NodeLostError, match="last at node wreck: its node was lost while it"):
            wreck.early.get(timeout=20)
        assert fleet.job(wreck.early.id).status == "lost"  # type: ignore[union-attr]

    def test_a_lost_task_calls_its_errbacks_and_sends_the_signal_once(
        self, client: redis.Redis, wreck: Wreck
    ) -> None:
        entry = f"{wreck.early.id} NodeLostError"
        wait_for(lambda: client.lrange("test:errback", 0, -1) == [entry])
        wait_for(lambda: client.exists("test:task_failure"))
        assert client.lrange("test:task_failure", 0, -1).count(entry) == 1

    def test_a_chain_and_a_chord_with_a_lost_task_fail(self, wreck: Wreck) -> None:
        with pytest.raises(NodeLostError):
            wreck.chained.get(timeout=20)
        with pytest.raises(Exception, match="its node was lost while it ran"):
            wreck.chord.get(timeout=20)

    def test_a_late_task_runs_again(self, client: redis.Redis, wreck: Wreck) -> None:
        wreck.late.get(timeout=20)
        assert client.lrange("test:began:late", 0, -1) == ["celery@wreck", "celery@safe"]

    def test_a_task_with_retry_on_worker_lost_is_retried(self, wreck: Wreck) -> None:
        assert wreck.retried.get(timeout=20) == "second time"

    def test_a_task_whose_message_was_not_noted_is_reported_lost(
        self, fleet: Fleet, client: redis.Redis, wreck: Wreck
    ) -> None:
        with pytest.raises(NodeLostError, match="its message never reached its node"):
            wreck.unnoted.get(timeout=20)
        assert fleet.job(wreck.unnoted.id).status == "lost"  # type: ignore[union-attr]
        assert not client.exists("test:began:unnoted")

    def test_no_state_of_the_dead_node_is_left(
        self, fleet: Fleet, client: redis.Redis, wreck: Wreck
    ) -> None:
        wait_forgotten(fleet, client, "wreck")
        wait_for(lambda: not client.exists("scheduler:rescues", "scheduler:lost"))
        assert client.keys("minsched.*") == []


def test_a_job_that_kills_its_nodes_is_given_up(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start("poison-1", "-P", "threads", pool="poison")
    fleet.start("poison-2", "-P", "threads", pool="poison")
    fleet.wait_online("poison-1", "poison-2")
    poison = fleet.send("kills_its_node", minsched={"pool": "poison"})
    with pytest.raises(MaxRescuesExceededError, match="its node died under it 2 times"):
        poison.get(timeout=30)
    assert fleet.job(poison.id).status == "failed"  # type: ignore[union-attr]
    killed_nodes = client.lrange("test:killers", 0, -1)
    assert sorted(killed_nodes) == ["celery@poison-1", "celery@poison-2"]
