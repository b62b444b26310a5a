"""What is broken in Redis by hand is named with its keys, and mended; nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from celery_minsched import CompleteTaskRequest, DispatchRequest, MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair
from celery_minsched.consistency.violation import Violation
from celery_minsched.core.models import DispatchResponse
from node_agent.rescue import _park_queue

from ..support.desk import Desk, silence
from ..support.interleaving import Interleaving
from ..support.server import Server

LATER = 10**15


class World:
    """Some of everything: a node that is full, one that is idle, one that is dead; jobs of each
    kind.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.service = MinimalSchedulerService(client)
        self.keys = self.service.keys
        self.desk = Desk(self.service)
        self.checker = Checker(self.desk.views)
        asr = [{"id": "asr", "langs": [["zh", "en"]]}]
        self.desk.node("dead", 1, ["old"])
        self.die("dead")
        self.desk.node("full", 2, asr, caps=["gpu"])
        self.desk.node("idle", 2, ["mt", "tts"], caps=["big"])
        self.ended = self.desk.dispatch(task_id="ended")
        self.desk.complete(self.ended)
        self.running = self.desk.dispatch(task_id="running").job_id
        self.service.claim_job(self.running, "full")
        self.dispatched = self.desk.dispatch(task_id="dispatched").job_id
        self.waiting = self.send(task_id="waiting", session_id="u1")
        self.speech = self.send(task_id="s", pool=None, src_lang="zh", tgt_lang="en")
        self.delayed = self.send(task_id="delayed", due_ts=LATER)
        self.revoked = self.send(task_id="revoked", pool="tts", capabilities=["none"])
        self.service.revoke_tasks(["revoked"], "idle")
        self.client.delete(self.keys("node_queue", "idle"))
        self.client.lpush(self.keys("job_queue", self.revoked), message(self.revoked))  # put back
        self.service.place_jobs([self.revoked], handed_back_by="idle")
        unsent = self.desk.dispatch(task_id="lost", pool="mt")
        self.lost = unsent.job_id
        self.service.release_job(self.lost)
        self.service.set_language_pools("fr", "de", ["asr"])

    def die(self, node_id: str) -> None:
        """The node falls silent, and is found so."""
        silence(self.desk, node_id, 60_000)
        seconds, _ = self.client.time()
        self.client.hset(self.keys("heard"), mapping={"since": 1, "last": seconds * 1000})
        self.desk.node("other", 1, ["other"])
        self.desk.beat("other")

    def send(self, **demand: Any) -> str:
        """A job that does not run yet, and its message as the router makes it."""
        head, tail = message("HERE", **demand).split('"HERE"')
        request = DispatchRequest(**({"pool": "asr", "when_full": "wait"} | demand))
        [job] = self.service.dispatch_tasks([(request, (head, tail))])
        assert isinstance(job, DispatchResponse)
        return job.job_id

    def check(self) -> list[Violation]:
        return self.checker.check(pause=0)

    def repair(self) -> list[Violation]:
        return repair(self.service, self.checker, self.check(), pause=0)

    def everything(self) -> dict[str, Any]:
        """All there is but the counter of turns, and what is told and counted."""
        passing = {self.keys(name) for name in ("turn", "events", "counts")}
        passing |= set(self.client.scan_iter(self.keys("pool_counts", "*")))
        keys = sorted(set(self.client.scan_iter()) - passing)
        reads = {
            "hash": self.client.hgetall,
            "string": self.client.get,
            "set": self.client.smembers,
            "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
            "list": lambda key: self.client.lrange(key, 0, -1),
        }
        return {key: reads[self.client.type(key)](key) for key in keys}


def message(job_id: str, task_id: str = "", **demand: Any) -> str:
    demand = {"pool": "asr", **{key: value for key, value in demand.items() if key != "due_ts"}}
    header = {"demand": {k: v for k, v in demand.items() if v}, "job_id": job_id}
    headers = {"id": task_id, "task": "t", "eta": None, "expires": None, "minsched": header}
    return json.dumps({"body": "gASV", "headers": headers, "properties": {"priority": 0}})


@pytest.fixture
def world(client: redis.Redis) -> World:
    world = World(client)
    assert world.check() == []
    return world


Break = Callable[[redis.Redis, World], Any]

#: What is done to Redis, and which violation names it, with which of its keys.
BREAKS: dict[str, tuple[Break, str, str]] = {
    "a slot count": (
        lambda r, w: r.hset("scheduler:node:runtime:full", "current_jobs", 7),
        "slot_count",
        "scheduler:node:runtime:full",
    ),
    "a full node is free": (
        lambda r, w: r.zadd("scheduler:pool:asr:free", {"full": 1}),
        "free_index",
        "scheduler:pool:asr:free",
    ),
    "an idle node is not free": (
        lambda r, w: r.zrem("scheduler:pool:mt:free", "idle"),
        "free_index",
        "scheduler:pool:mt:free",
    ),
    "an idle node is not free for its capability": (
        lambda r, w: r.zrem("scheduler:pool:mt:free:big", "idle"),
        "free_index",
        "scheduler:pool:mt:free:big",
    ),
    "a member is missing": (
        lambda r, w: r.srem("scheduler:pool:asr:members", "full"),
        "member_missing",
        "scheduler:pool:asr:members",
    ),
    "a member of a capability is missing": (
        lambda r, w: r.srem("scheduler:pool:asr:members:gpu", "full"),
        "member_missing",
        "scheduler:pool:asr:members:gpu",
    ),
    "a member that never offered it": (
        lambda r, w: r.sadd("scheduler:pool:mt:members", "full"),
        "stale_member",
        "scheduler:pool:mt:members",
    ),
    "a member that is no node": (
        lambda r, w: r.sadd("scheduler:pool:mt:members:big", "ghost"),
        "stale_member",
        "scheduler:pool:mt:members:big",
    ),
    "a free node that is none": (
        lambda r, w: r.zadd("scheduler:pool:mt:free", {"ghost": 0}),
        "stale_member",
        "scheduler:pool:mt:free",
    ),
    "a node is not listed": (
        lambda r, w: r.zrem("scheduler:nodes", "full"),
        "node_unlisted",
        "scheduler:nodes",
    ),
    "a node that is no node": (
        lambda r, w: r.zadd("scheduler:nodes", {"ghost": 5}),
        "node_without_record",
        "scheduler:node:info:ghost",
    ),
    "a count of no node": (
        lambda r, w: r.hset("scheduler:node:runtime:ghost", "current_jobs", 1),
        "node_without_record",
        "scheduler:node:runtime:ghost",
    ),
    "a node's record is gone": (
        lambda r, w: r.delete("scheduler:node:info:idle"),
        "node_without_record",
        "scheduler:node:info:idle",
    ),
    "a pool is not listed": (
        lambda r, w: r.srem("scheduler:pools", "mt"),
        "pool_unlisted",
        "scheduler:pools",
    ),
    "a pool without nodes": (
        lambda r, w: r.sadd("scheduler:pools", "ghosts"),
        "pool_without_nodes",
        "scheduler:pool:ghosts:members",
    ),
    "a speaker is missing": (
        lambda r, w: r.srem("scheduler:lang:zh:en:in:asr", "full"),
        "speaker_missing",
        "scheduler:lang:zh:en:in:asr",
    ),
    "a speaker that never said so": (
        lambda r, w: r.sadd("scheduler:lang:zh:en:in:asr", "idle"),
        "stale_member",
        "scheduler:lang:zh:en:in:asr",
    ),
    "a pair is not served": (
        lambda r, w: r.srem("scheduler:lang:zh:en", "asr"),
        "pair_index",
        "scheduler:lang:zh:en",
    ),
    "a pair that a program maps is not served": (
        lambda r, w: r.srem("scheduler:lang:fr:de", "asr"),
        "pair_index",
        "scheduler:lang:fr:de",
    ),
    "a pool does not list its pair": (
        lambda r, w: r.srem("scheduler:pool:asr:langs", "zh:en"),
        "pair_index",
        "scheduler:pool:asr:langs",
    ),
    "a pair that nobody serves": (
        lambda r, w: r.sadd("scheduler:lang:ga:cy", "asr"),
        "pair_index",
        "scheduler:lang:ga:cy",
    ),
    "jobs of no node": (
        lambda r, w: (
            r.hset(f"scheduler:job:{w.running}", "node_id", "ghost"),
            r.zadd("scheduler:node:jobs:ghost", {w.running: LATER}),
        ),
        "left_behind",
        "scheduler:node:jobs:ghost",
    ),
    "messages at a dead node": (
        lambda r, w: r.lpush("minsched.node.dead", message("u:7")),
        "left_behind",
        "minsched.node.dead",
    ),
    "unacknowledged messages of no node": (
        lambda r, w: r.hset("minsched.unacked.ghost", "tag", "[{}, 1, 2]"),
        "left_behind",
        "minsched.unacked.ghost",
    ),
    "acknowledged messages of no node": (
        lambda r, w: r.sadd("minsched.acked.ghost", "tag"),
        "left_behind",
        "minsched.acked.ghost",
    ),
    "a job has lost its slot": (
        lambda r, w: r.zrem("scheduler:node:jobs:full", w.running),
        "job_without_slot",
        "scheduler:node:jobs:full",
    ),
    "a job has a slot of no node": (
        lambda r, w: (
            r.hset(f"scheduler:job:{w.dispatched}", "node_id", "ghost"),
            r.zrem("scheduler:node:jobs:full", w.dispatched),
        ),
        "job_without_slot",
        "scheduler:node:jobs:ghost",
    ),
    "a slot of a job that has ended": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.ended.job_id: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "two slots for one job": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.running: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "a slot of a job that waits": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.waiting: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "a slot of a job without a record": (
        lambda r, w: r.delete(f"scheduler:job:{w.running}"),
        "slot_without_job",
        "scheduler:node:jobs:full",
    ),
    "a waiting job is in no line": (
        lambda r, w: r.delete("scheduler:waiting:asr//"),
        "job_without_place",
        "scheduler:waiting:asr//",
    ),
    "a delayed job is not among the delayed": (
        lambda r, w: r.zrem("scheduler:delayed", w.delayed),
        "job_without_place",
        "scheduler:delayed",
    ),
    "a revoked job that was put back is not there to be discarded": (
        lambda r, w: r.zrem("scheduler:expiring", w.revoked),
        "job_without_place",
        "scheduler:expiring",
    ),
    "a place in line of no job": (
        lambda r, w: r.zadd("scheduler:waiting:asr//", {"000000000000999 u:999": 0}),
        "ticket_without_job",
        "scheduler:waiting:asr//",
    ),
    "a place in line of a job that runs": (
        lambda r, w: r.zadd("scheduler:waiting:tts//", {f"000000000000002 {w.running}": 0}),
        "ticket_without_job",
        "scheduler:waiting:tts//",
    ),
    "a line in a wrong place": (
        lambda r, w: r.zadd("scheduler:pool:asr:waiting", {"asr//": 10**15}),
        "line_stray",
        "scheduler:pool:asr:waiting",
    ),
    "a line in an index that is not its own": (
        lambda r, w: r.zadd("scheduler:pool:asr:waiting:gpu", {"asr//": 0}),
        "line_stray",
        "scheduler:pool:asr:waiting:gpu",
    ),
    "jobs in line are counted wrongly": (
        lambda r, w: r.hincrby("scheduler:waiting_counts", "asr", 3),
        "waiting_miscounted",
        "scheduler:waiting_counts",
    ),
    "jobs are counted that wait for nothing": (
        lambda r, w: r.hset("scheduler:waiting_counts", "gone", 3),
        "waiting_miscounted",
        "scheduler:waiting_counts",
    ),
    "a delayed entry of no job": (
        lambda r, w: r.zadd("scheduler:delayed", {"u:999": LATER}),
        "entry_without_job",
        "scheduler:delayed",
    ),
    "a job that runs is among the delayed": (
        lambda r, w: r.zadd("scheduler:delayed", {w.running: 1}),
        "entry_without_job",
        "scheduler:delayed",
    ),
    "an expiry of no job": (
        lambda r, w: r.zadd("scheduler:expiring", {"u:999": LATER}),
        "entry_without_job",
        "scheduler:expiring",
    ),
    "a waiting job's message is gone": (
        lambda r, w: r.delete(f"minsched.job.{w.waiting}"),
        "job_without_message",
        "minsched.job.u1",
    ),
    "a delayed job's message is gone": (
        lambda r, w: r.delete(f"minsched.job.{w.delayed}"),
        "job_without_message",
        "minsched.job.",
    ),
    "a waiting job's record is gone": (
        lambda r, w: r.delete(f"scheduler:job:{w.waiting}"),
        "message_without_job",
        "minsched.job.u1",
    ),
    "a message of a job that has ended": (
        lambda r, w: r.lpush(f"minsched.job.{w.ended.job_id}", message(w.ended.job_id)),
        "message_without_job",
        "minsched.job.",
    ),
    "a message of a job that was given up": (
        lambda r, w: r.lpush(f"minsched.job.{w.lost}", message(w.lost)),
        "message_without_job",
        "minsched.job.",
    ),
    "a record has lost what its job asks for": (
        lambda r, w: r.hdel(f"scheduler:job:{w.waiting}", "where"),
        "job_without_demand",
        "minsched.job.u1",
    ),
    "the record of an ended job stays for ever": (
        lambda r, w: r.persist(f"scheduler:job:{w.ended.job_id}"),
        "record_stays",
        "scheduler:job:",
    ),
    "the record of a running job stays for ever": (
        lambda r, w: r.persist(f"scheduler:job:{w.running}"),
        "record_stays",
        "scheduler:job:",
    ),
    "the record of a waiting job lapses": (
        lambda r, w: r.expire(f"scheduler:job:{w.waiting}", 1000),
        "record_lapses",
        "scheduler:job:u1",
    ),
    "a line with nobody in it": (
        lambda r, w: r.hset("scheduler:lines", "tts//", 0),
        "line_without_jobs",
        "scheduler:lines",
    ),
    "a line is not known": (
        lambda r, w: r.hdel("scheduler:lines", "asr//"),
        "line_unlisted",
        "scheduler:lines",
    ),
    "a line is not found by its pool": (
        lambda r, w: r.zrem("scheduler:pool:asr:waiting", "asr//"),
        "line_unlinked",
        "scheduler:pool:asr:waiting",
    ),
    "a line is not found by its language pair": (
        lambda r, w: r.srem("scheduler:lang:zh:en:waiting", "zh:en//"),
        "line_unlinked",
        "scheduler:lang:zh:en:waiting",
    ),
    "a line that has gone is noted at its language pair": (
        lambda r, w: r.sadd("scheduler:lang:ga:cy:waiting", "ga:cy//"),
        "line_without_jobs",
        "scheduler:lang:ga:cy:waiting",
    ),
    "a slot stays free while a job waits": (
        lambda r, w: r.hset("scheduler:node:info:full", "max_jobs", 3),
        "free_while_waiting",
        "scheduler:waiting:asr//",
    ),
    "a node's queue was declared and the node is not there": (
        lambda r, w: r.sadd("_kombu.binding.minsched.node.ghost", "x"),
        "stray_binding",
        "_kombu.binding.minsched.node.ghost",
    ),
    "a dead node's mailbox": (
        lambda r, w: r.sadd(
            "_kombu.binding.celery.pidbox", "\x06\x16\x06\x16celery@dead.celery.pidbox"
        ),
        "stray_mailbox",
        "_kombu.binding.celery.pidbox",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named_with_its_keys_and_mended(world: World, name: str) -> None:
    broken, code, key = BREAKS[name]
    broken(world.client, world)
    violations = world.check()
    named = [violation for violation in violations if violation.code == code]
    assert named, violations
    assert any(where.startswith(key) for violation in named for where in violation.keys), named
    assert world.repair() == []


#: What no repair can mend; what is done about it by hand.
BY_HAND: dict[str, tuple[Break, str, Break]] = {
    "a message of no job for no node": (
        lambda r, w: r.lpush("minsched.node.ghost", "by hand"),
        "foreign_message",
        lambda r, w: r.rpop("minsched.node.ghost"),
    ),
    "a parked message that says nothing": (
        lambda r, w: r.lpush("minsched.job.u:99", "by hand"),
        "message_without_job",
        lambda r, w: r.delete("minsched.job.u:99"),
    ),
    "a line of no form": (
        lambda r, w: r.hset("scheduler:lines", "by hand", 0),
        "line_unreadable",
        lambda r, w: r.hdel("scheduler:lines", "by hand"),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_cannot_be_mended_is_left_and_says_what_to_do(world: World, name: str) -> None:
    broken, code, by_hand = BY_HAND[name]
    broken(world.client, world)
    [left] = world.repair()
    assert left.code == code
    assert left.remedy
    by_hand(world.client, world)
    assert world.repair() == []


def test_what_is_right_is_not_changed(world: World) -> None:
    before = world.everything()
    for node_id in ("full", "idle", "dead", "other"):
        world.service.repair_node(node_id, "asr\t\nasr\tgpu\n", "asr\tzh:en\n")
    for line in world.client.hkeys(world.keys("lines")):
        world.service.repair_line(line)
    for job_id in (world.running, world.waiting, world.delayed, world.revoked, world.ended.job_id):
        world.service.repair_job(None, job_id, "full", "asr//", "no ticket")
    assert world.everything() == before


def test_a_job_whose_message_is_gone_is_lost_and_told(world: World) -> None:
    world.client.delete(world.keys("job_queue", world.waiting))
    assert world.repair() == []
    assert world.desk.status(world.waiting) == "lost"
    assert world.service.claim_lost_job() == world.waiting


def test_a_job_whose_slot_was_lost_has_it_again_until_its_node_says(world: World) -> None:
    world.client.delete(world.keys("node_jobs", "full"))
    assert world.repair() == []
    assert world.desk.taken("full") == 2
    assert world.service.complete_task(
        CompleteTaskRequest(job_id=world.running, node_id="full", status="finished")
    )
    assert world.desk.status(world.waiting) == "dispatched"  # its slot went to the first in line


def test_a_job_whose_record_is_gone_is_placed_by_what_its_message_asks_for(world: World) -> None:
    world.client.delete(world.keys("job", world.speech), world.keys("task", "s"))
    assert world.repair() == []
    world.desk.node("second", 1, [{"id": "asr", "langs": [["zh", "en"]]}])
    jobs = [world.waiting, world.speech]
    assert [world.desk.status(job_id) for job_id in jobs].count("dispatched") == 1
    job = world.desk.views.job_of_task("s")
    assert job is not None
    assert job.job_id == world.speech


def test_a_rescue_makes_good_a_record_that_redis_has_lost(world: World) -> None:
    plugin: Any = SimpleNamespace(scheduler=world.service)
    queue = world.keys("node_queue", "full")
    world.client.lpush(queue, message(world.dispatched, task_id="dispatched"))
    world.client.delete(world.keys("job", world.dispatched))
    world.desk.beat("full", jobs=[world.running, world.dispatched])  # its record made anew
    world.die("full")
    assert list(_park_queue(plugin, queue)) == [world.dispatched, world.revoked]
    world.desk.node("second", 4, [{"id": "asr", "langs": [["zh", "en"]]}])
    world.service.rescue_node("full", [world.dispatched])
    job = world.desk.views.job(world.dispatched)
    assert job is not None
    assert (job.status, job.node_id, job.pool) == ("dispatched", "second", "asr")


def test_a_job_whose_demand_is_lost_gives_its_slot_back_and_is_told(world: World) -> None:
    world.client.hdel(world.keys("job", world.running), "where")
    parked = world.keys("job_queue", world.running)
    world.client.lpush(parked, "{}")
    assert world.service.place_jobs([world.running], handed_back_by="full") == ["lost"]
    assert world.desk.status(world.waiting) == "dispatched"
    assert world.service.claim_lost_job() == world.running


def test_a_message_at_a_dead_node_is_left_to_the_next_rescuer(world: World) -> None:
    world.client.lpush(world.keys("node_queue", "dead"), message(world.lost))
    assert world.repair() == []
    node_id, _ = world.service.claim_rescue()
    assert node_id == "dead"


def test_what_was_sent_to_a_dead_node_by_hand_waits_for_it(world: World) -> None:
    world.client.lpush(world.keys("node_queue", "dead"), "by hand")
    assert world.check() == []


def test_nothing_is_left_of_a_job_with_an_expiry_that_is_lost(world: World) -> None:
    job_id = world.send(pool="tts", capabilities=["none"], expires_ts=LATER)
    world.client.delete(world.keys("job_queue", job_id))
    world.desk.node("able", 1, ["tts"], caps=["none"])
    assert world.desk.status(job_id) == "lost"
    assert world.client.zscore(world.keys("expiring"), job_id) is None
    assert world.check() == []


def test_what_a_dead_worker_acknowledged_and_nobody_waits_for_is_removed(world: World) -> None:
    keys = world.keys
    world.client.hset(keys("node_unacked", "dead"), "tag", "[{}, 1, 2]")
    world.client.sadd(keys("node_acked", "dead"), "tag")
    assert world.repair() == []
    assert not world.client.exists(keys("node_unacked", "dead"), keys("node_acked", "dead"))


def test_a_repair_that_comes_late_does_no_harm(world: World) -> None:
    world.client.zrem(world.keys("node_jobs", "full"), world.running)
    violations = world.check()
    world.desk.beat("full", jobs=[world.running])  # which mends it
    before = world.everything()
    assert repair(world.service, world.checker, violations, pause=0) == []
    assert world.everything() == before


def test_a_violation_counts_if_two_scans_find_it(world: World) -> None:
    world.client.zrem(world.keys("node_jobs", "full"), world.running)
    looks = iter([None, lambda: world.desk.beat("full", jobs=[world.running])])

    class Busy(Checker):
        def scan_once(self) -> Any:
            if act := next(looks):
                act()
            return super().scan_once()

    assert Busy(world.desk.views).check(pause=0) == []


class Meddled(Interleaving):
    """The publishers and nodes of test_wakeups.py, while somebody breaks and repairs things."""

    broken = 0

    def no_slot_is_free_while_a_job_that_fits_it_waits(self) -> None:
        if self.random.random() < 0.2:
            self.meddle()
        self.mend()

    def meddle(self) -> None:
        """Delete a key, or take something out of it."""
        spared = ("turn", "heard", "job:id_seq", "node:info:", "session:", "rescues", "lost")
        prefix = self.keys("job", "").removesuffix("job:")
        keys = [
            key
            for key in sorted(self.client.scan_iter("scheduler:*"))
            if not key.removeprefix(prefix).startswith(spared)
        ]
        if not keys:
            return
        key = self.random.choice(keys)
        kind = self.client.type(key)
        if kind == "zset" and self.random.random() < 0.7:
            self.client.zrem(key, self.random.choice(self.client.zrange(key, 0, -1)))
        elif kind == "set" and self.random.random() < 0.7:
            self.client.srem(key, self.random.choice(sorted(self.client.smembers(key))))
        else:
            self.client.delete(key)
        self.broken += 1

    def mend(self) -> None:
        checker = Checker(self.views)
        assert repair(self.service, checker, checker.check(pause=0), pause=0) == []

    def is_quiet(self) -> bool:
        self.mend()
        return super().is_quiet()

    def everything_ended_once(self) -> None:
        assert self.is_quiet(), self.client.keys("*")
        for job_id in self.sent:
            job = self.views.job(job_id)
            assert self.ran[job_id] == 1 or (job and job.status == "lost"), (job_id, job)


def meddle(server: Server, seeds: range) -> None:
    with server.client() as client:
        for seed in seeds:
            world = Meddled(client, seed)
            try:
                world.run()
            except AssertionError as exc:
                raise AssertionError(f"interleaving {seed}") from exc
            assert world.broken


def test_repairs_disturb_nothing_that_goes_on(server: Server) -> None:
    meddle(server, range(5))


@pytest.mark.soak
def test_repairs_disturb_nothing_in_a_thousand_interleavings(server: Server) -> None:
    meddle(server, range(1000, 2000))
