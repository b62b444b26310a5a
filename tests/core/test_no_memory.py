"""Redis without memory: each script that ends or moves a job, or changes a node, works."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from celery_minsched.core import lua_source, times

from ..support.desk import Desk
from ..support.server import milliseconds

#: These scripts add data. Redis refuses them, and their callers get an error.
GROWING = {"adopt_task", "carry_job", "carry_language", "dispatch_task", "set_language_pools"}


class World:
    """A node with one slot, a job that runs there, and a job that waits."""

    def __init__(self, client: redis.Redis, desk: Desk) -> None:
        self.client, self.desk, self.service = client, desk, desk.service
        desk.node("n1", 1)
        self.running = desk.send(task_id="running")
        desk.take("n1")
        self.service.claim_job(self.running.job_id, "n1", "tag")
        self.waiting = desk.park(task_id="waiting")

    def status(self) -> tuple[str, str]:
        return self.desk.status(self.running.job_id), self.desk.status(self.waiting)

    def park(self, job_id: str) -> None:
        """Put a job's message back into its own list, as a node does."""
        self.client.lpush(self.service.keys("job_queue", job_id), "{}")


Prepare = Callable[[World], object]
Call = Callable[[World], object]
Outcome = Callable[[World], bool]


def _prepare_rescue(world: World) -> None:
    world.client.hset("scheduler:node:info:n1", "online", "false")
    world.client.zadd("scheduler:nodes", {"n1": -1})
    world.client.zadd("scheduler:rescues", {"n1": 0})


def _return(world: World) -> object:
    parked, job_id = world.service.keys("job_queue", world.waiting), world.waiting
    raw = world.client.lindex(parked, 0)
    return world.service.return_messages([(parked, raw, "plain", raw, job_id)])


def _nothing(world: World) -> None:
    pass


#: For each script: the steps while there is memory, the call, and its outcome.
CALLS: dict[str, tuple[Prepare, Call, Outcome]] = {
    "agree_times": (
        lambda w: w.client.delete("scheduler:times"),
        lambda w: times.agree(w.client, w.service.keys, w.service.settings),
        lambda w: w.client.exists("scheduler:times") == 1,
    ),
    "claim_job": (
        lambda w: (w.desk.complete(w.running), w.desk.take("n1")),
        lambda w: w.service.claim_job(w.waiting, "n1"),
        lambda w: w.status() == ("finished", "running"),
    ),
    "claim_rescue": (
        _prepare_rescue,
        lambda w: w.service.claim_rescue(),
        lambda w: w.client.zscore("scheduler:rescues", "n1") > milliseconds(w.client),
    ),
    "claim_lost_job": (
        lambda w: w.client.zadd("scheduler:lost", {w.running.job_id: 0}),
        lambda w: w.service.claim_lost_job(),
        lambda w: w.client.zscore("scheduler:lost", w.running.job_id) > milliseconds(w.client),
    ),
    "complete_task": (
        _nothing,
        lambda w: w.desk.complete(w.running),
        lambda w: w.status() == ("finished", "dispatched"),
    ),
    "acknowledge_job": (
        lambda w: w.client.hset("minsched.unacked.n1", "tag", "{}"),
        lambda w: w.service.acknowledge_job(
            "n1", "tag", int(w.client.hget("scheduler:node:info:n1", "term"))
        ),
        lambda w: w.client.smembers("minsched.acked.n1") == {"tag"},
    ),
    "declare_dead": (
        lambda w: w.client.hset("scheduler:node:info:n1", "last_heartbeat_ts", 1),
        lambda w: w.service.declare_dead("n1"),
        lambda w: w.client.exists("scheduler:rescues") == 1,
    ),
    "drain_node": (
        _nothing,
        lambda w: w.service.drain_node("n1"),
        lambda w: w.desk.info("n1").draining,
    ),
    "heartbeat": (
        _nothing,
        lambda w: w.desk.beat("n1", online=False, jobs=[w.running.job_id]),
        lambda w: not w.desk.info("n1").online,
    ),
    "park_message": (
        lambda w: w.client.hset("minsched.unacked.n1", "tag", "{}"),
        lambda w: w.service.park_messages([(w.running.job_id, "{}", "", "n1", "tag", "")]),
        lambda w: (
            w.client.exists(w.service.keys("job_queue", w.running.job_id), "minsched.unacked.n1")
            == 1
        ),
    ),
    "pause_pool": (
        _nothing,
        lambda w: w.service.pause_pool("asr"),
        lambda w: w.client.smembers("scheduler:paused") == {"asr"},
    ),
    "place_job": (
        lambda w: w.park(w.running.job_id),
        lambda w: w.service.place_jobs([w.running.job_id], handed_back_by="n1"),
        lambda w: w.status() == ("dispatched", "waiting"),
    ),
    "register_node": (
        _nothing,
        lambda w: w.desk.node("n2"),
        lambda w: w.status() == ("running", "dispatched"),
    ),
    "release_job": (
        lambda w: w.client.hset(f"scheduler:job:{w.running.job_id}", "status", "dispatched"),
        lambda w: w.service.release_job(w.running.job_id),
        lambda w: w.status() == ("lost", "dispatched"),
    ),
    "repair_job": (
        lambda w: w.client.zrem("scheduler:node:jobs:n1", w.running.job_id),
        lambda w: w.service.repair_job(None, w.running.job_id),
        lambda w: w.desk.taken("n1") == 1,
    ),
    "repair_line": (
        lambda w: w.client.hdel("scheduler:lines", "asr//"),
        lambda w: w.service.repair_line("asr//"),
        lambda w: w.client.hlen("scheduler:lines") == 1,
    ),
    "recount_waiting": (
        lambda w: w.client.hincrby("scheduler:waiting_counts", "asr", -1),
        lambda w: w.service.recount_waiting("asr", ["asr//"]),
        lambda w: w.client.hget("scheduler:waiting_counts", "asr") == "1",
    ),
    "repair_node": (
        lambda w: w.client.hset("scheduler:node:runtime:n1", "current_jobs", 7),
        lambda w: w.service.repair_node("n1"),
        lambda w: w.desk.taken("n1") == 1,
    ),
    "rescue_node": (
        _prepare_rescue,
        lambda w: w.service.rescue_node("n1"),
        lambda w: w.status() == ("lost", "waiting"),
    ),
    "return_message": (
        _nothing,
        _return,
        lambda w: w.status() == ("running", "unknown"),
    ),
    "revoke_tasks": (
        _nothing,
        lambda w: w.service.revoke_tasks(["waiting"], "n1"),
        lambda w: w.status() == ("running", "failed"),
    ),
}


@pytest.fixture
def world(client: redis.Redis, desk: Desk) -> Iterator[World]:
    yield World(client, desk)
    client.config_set("maxmemory", 0)
    client.flushall()  # check would find violations in some states


@pytest.mark.parametrize("script", CALLS)
def test_a_script_works_without_memory(world: World, script: str) -> None:
    prepare, call, outcome = CALLS[script]
    prepare(world)
    world.client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError):  # Redis has no memory
        world.client.set("anything", 1)
    call(world)
    assert outcome(world)


def test_every_script_is_in_one_of_the_two_lists() -> None:
    assert set(lua_source.names()) == GROWING | set(CALLS)
    assert not GROWING & set(CALLS)
