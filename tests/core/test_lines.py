"""Lines at their limits: no job starves, turns are fair, each call is bounded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from celery_minsched import Backlogged, EmptyPool, MinimalSchedulerService, Settings
from celery_minsched.consistency.checker import Checker

from ..support.desk import Desk, beat_until, finish, park_many, running_at, silence
from ..support.server import milliseconds

#: Bound of the commands of one call. It does not depend on the number of waiting jobs.
MOST_COMMANDS = 10_000


@pytest.fixture
def bounded(client: redis.Redis) -> Callable[..., Any]:
    """A context manager. The calls inside run at most ``most`` commands together."""

    @contextmanager
    def context(most: int = MOST_COMMANDS) -> Iterator[None]:
        before = commands(client)
        yield
        assert commands(client) - before < most

    return context


def commands(client: redis.Redis) -> int:
    """The number of commands that the server has run, including those of scripts."""
    return sum(stat["calls"] for stat in client.info("commandstats").values())


class TestNoJobStarves:
    def test_a_job_behind_a_thousand_lines_that_the_node_cannot_serve_runs(
        self, desk: Desk, bounded: Callable[..., Any]
    ) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        park_many(desk, [{"capabilities": [f"voice-{n}"]} for n in range(1000)])
        mine = desk.park("mine")
        with bounded():
            finish(desk, "n1")
        with bounded(8 * MOST_COMMANDS):
            beats = beat_until(desk, "n1", lambda: desk.status(mine) == "dispatched")
        assert desk.status(mine) == "dispatched"
        assert beats <= 8
        assert Checker(desk.views).check() == []

    def test_lines_that_a_node_cannot_serve_are_searched_once(
        self, desk: Desk, bounded: Callable[..., Any]
    ) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        park_many(desk, [{"capabilities": [f"voice-{n}"]} for n in range(1000)])
        park_many(desk, [{} for _ in range(10)])
        finish(desk, "n1")
        beat_until(desk, "n1", lambda: desk.taken("n1") == 1)
        for _ in range(8):
            with bounded(120):
                assert finish(desk, "n1"), "the slot stayed free"

    def test_lines_are_searched_again_after_the_node_gets_a_capability(self, desk: Desk) -> None:
        desk.node("n1", 1)
        special = desk.park("special", capabilities=["gpu"])
        desk.dispatch()
        desk.park("plain")
        assert desk.status(special) == "waiting"
        desk.node("n1", 2, caps=["gpu"])
        assert desk.status(special) == "dispatched"

    def test_jobs_run_in_a_new_pool_of_their_pair(self, desk: Desk) -> None:
        listed = [{"id": "asr", "langs": [["zh", "en"]]}]
        desk.node("n1", 1, listed)
        french = desk.park("french", src_lang="fr", tgt_lang="en")
        desk.beat("n1")
        assert desk.status(french) == "waiting"
        desk.service.set_language_pools("fr", "en", ["asr"])
        assert desk.status(french) == "dispatched"

    def test_jobs_run_in_a_pool_that_lists_no_pairs_any_more(self, desk: Desk) -> None:
        desk.node("n1", 1, [{"id": "asr", "langs": [["zh", "en"]]}])
        french = desk.park("french", src_lang="fr", tgt_lang="en")
        desk.beat("n1")
        desk.node("n1", 1, ["asr"])  # the language does not matter
        assert desk.status(french) == "dispatched"

    def test_jobs_run_by_the_other_direction_when_no_pool_serves_the_first(
        self, desk: Desk
    ) -> None:
        desk.node("there", 1, [{"id": "p", "langs": [["zh", "en"]]}])
        desk.node("back", 1, [{"id": "q", "langs": [["en", "zh"]]}])
        auto = {"pool": None, "src_lang": "auto", "tgt_lang": "zh:en"}
        assert desk.dispatch(**auto).node_id == "there"
        job = desk.park("either", **auto)
        assert desk.status(job) == "waiting"
        desk.node("there", 1, ["p"])
        assert (desk.status(job), desk.taken("back")) == ("dispatched", 1)

    def test_a_node_that_registers_again_loses_no_line_to_the_other_direction(
        self, desk: Desk
    ) -> None:
        there = [{"id": "p", "langs": [["zh", "en"]]}]
        desk.node("there", 1, there)
        desk.node("back", 1, [{"id": "q", "langs": [["en", "zh"]]}])
        auto = {"pool": None, "src_lang": "auto", "tgt_lang": "zh:en"}
        desk.dispatch(**auto)
        job = desk.park("either", **auto)
        desk.node("there", 2, there)
        assert (desk.status(job), desk.taken("there"), desk.taken("back")) == ("dispatched", 2, 0)

    def test_jobs_of_hundreds_of_lines_for_one_node_run_after_it_leaves(self, desk: Desk) -> None:
        caps = [f"voice-{n}" for n in range(100)]
        desk.node("a", 1, caps=caps)
        desk.dispatch()
        jobs = park_many(
            desk,
            [
                {"capabilities": sorted({one, other}), "affinity": "require", "preferred_node": "a"}
                for one in caps[:20]
                for other in caps[:20]
            ],
        )
        desk.node("b", 400, caps=caps)
        assert desk.taken("b") == 0  # the jobs wait for node a
        desk.service.drain_node("a")
        desk.beat("a")
        beat_until(desk, "b", lambda: desk.taken("b") == len(jobs))
        assert {desk.status(job) for job in jobs} == {"dispatched"}

    @pytest.mark.parametrize("leave", ["drain", "offline", "silence", "pool"])
    def test_jobs_for_a_node_that_comes_back_and_leaves_again_run_elsewhere(
        self, desk: Desk, client: redis.Redis, leave: str
    ) -> None:
        """While a node is away, any node can run a job that waits for this node."""

        def depart() -> None:
            if leave == "drain":
                desk.service.drain_node("a")
            elif leave == "offline":
                desk.beat("a", online=False)
            elif leave == "pool":
                desk.node("a", 1, ["other"])
            else:
                silence(desk, "a", 9000)
                client.hset(desk.service.keys("heard"), mapping={"since": 1})
                desk.beat("b")

        def come_back() -> None:
            desk.service.drain_node("a", draining=False)
            desk.node("a", 1)

        desk.node("a", 1)
        running = desk.dispatch(session_id="u1")
        desk.node("b", 1)
        other = desk.dispatch(preferred_node="b")
        mine = desk.park("mine", session_id="u1", affinity="require")
        depart()
        assert desk.status(mine) == "waiting"  # b is full
        come_back()
        desk.complete(other)
        assert desk.status(mine) == "waiting"  # waits for a, although b is free
        assert desk.beat("b").current_jobs == 0
        depart()
        desk.beat("b")
        assert (desk.status(mine), desk.taken("b")) == ("dispatched", 1)
        desk.complete(running)


class TestFairTurns:
    def test_a_flood_of_one_priority_costs_no_turn_in_another(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        park_many(desk, [{"fairness_key": "urgent"} for _ in range(30)])
        flood = park_many(desk, [{"fairness_key": "flood", "priority": 9} for _ in range(30)])
        for _ in range(30):
            finish(desk, "n1")
        [other] = park_many(desk, [{"fairness_key": "other", "priority": 9}])
        order = [finish(desk, "n1") for _ in range(3)]
        assert order == [flood[0], other, flood[1]]

    def test_a_job_that_is_handed_back_is_the_oldest(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        first, second, third = park_many(desk, [{}, {}, {}])
        assert finish(desk, "n1") == first
        client.delete(desk.service.keys("node_queue", "n1"))
        client.lpush(desk.service.keys("job_queue", first), first)
        desk.service.drain_node("n1")
        assert desk.service.place_jobs([first], handed_back_by="n1") == ["waiting"]
        desk.service.drain_node("n1", draining=False)
        assert running_at(desk, "n1") == [first]
        assert [finish(desk, "n1") for _ in range(2)] == [second, third]

    def test_a_job_that_never_ran_gives_its_turn_back(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        demands = [{"fairness_key": "hasty", "task_id": f"t{n}"} for n in range(5)]
        park_many(desk, demands)
        for demand in demands:
            desk.service.revoke_tasks([demand["task_id"]], "n1")
        park_many(desk, [{"fairness_key": "other"} for _ in range(3)])
        [again] = park_many(desk, [{"fairness_key": "hasty"}])
        assert again in [finish(desk, "n1") for _ in range(2)]


class TestBounds:
    def test_the_bound_of_a_line_holds_for_a_batch_too(self, client: redis.Redis) -> None:
        desk = Desk(MinimalSchedulerService(client, Settings(max_waiting=5)))
        desk.node("n1", 1)
        desk.dispatch()
        with pytest.raises(Backlogged, match="5 jobs wait"):
            park_many(desk, [{} for _ in range(7)])
        assert [line.waiting for line in desk.views.lines()] == [5]  # the first five jobs were sent
        assert len(desk.service.redis.keys("minsched.job.*")) == 5

    def test_capabilities_that_no_node_has_together_are_impossible(self, desk: Desk) -> None:
        desk.node("a", caps=["gpu"])
        desk.node("b", caps=["big"])
        job = desk.send(capabilities=["gpu", "big"])
        assert job.chosen_by == "impossible"
        with pytest.raises(EmptyPool, match="--capability big --capability gpu"):
            desk.dispatch(capabilities=["gpu", "big"])

    def test_a_call_moves_a_bounded_number_of_jobs(
        self, desk: Desk, bounded: Callable[..., Any]
    ) -> None:
        jobs = park_many(desk, [{"pool": None, "src_lang": "zh", "tgt_lang": "en"}] * 600)
        for number in range(40):
            desk.node(f"n{number}", 50)
        with bounded():
            desk.service.set_language_pools("zh", "en", ["asr"])
        for number in range(40):
            with bounded(4 * MOST_COMMANDS):
                beat_until(desk, f"n{number}", lambda: False)
        assert sum(desk.status(job) == "dispatched" for job in jobs) == 600

    def test_the_cost_of_a_freed_slot_does_not_depend_on_the_length_of_the_line(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        def cost() -> int:
            before = commands(client)
            finish(desk, "n1")
            return commands(client) - before

        desk.node("n1", 1, caps=[f"c{n}" for n in range(40)])
        desk.dispatch()
        park_many(desk, [{"fairness_key": f"u{n}"} for n in range(10)])
        few = max(cost() for _ in range(5))
        park_many(desk, [{"fairness_key": f"u{n}"} for n in range(2000)])
        park_many(desk, [{"capabilities": [f"c{n % 40}"]} for n in range(1000)])
        assert max(cost() for _ in range(100)) <= few + 2


class TestMaintenance:
    def test_a_job_that_waits_again_expires_too(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        seconds, _ = client.time()
        job = desk.dispatch(expires_ts=seconds * 1000 - 5000)
        client.lpush(desk.service.keys("job_queue", job.job_id), "back")
        desk.node("n2", 1, ["mt"])
        desk.service.drain_node("n1")
        assert desk.service.place_jobs([job.job_id], handed_back_by="n1") == ["waiting"]
        desk.beat("n2")
        assert desk.queue("n2") == ["back"]  # the worker reports the expiry to the caller
        assert desk.status(job.job_id) == "failed"

    def test_a_delayed_job_asks_one_node_for_a_heartbeat_and_then_another(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        def delay(milliseconds: int) -> str:
            seconds, micro = client.time()
            due_ts = seconds * 1000 + micro // 1000 + milliseconds
            return desk.send(due_ts=due_ts).job_id

        for node_id in "abc":
            desk.node(node_id)
        job = delay(60_000)
        assert 0 < desk.beat("a").next_due_ms <= 60_000
        assert desk.beat("b").next_due_ms == -1
        assert 0 < desk.beat("a").next_due_ms <= 60_000
        sooner = delay(30_000)
        assert 0 < desk.beat("b").next_due_ms <= 30_000
        assert desk.beat("a").next_due_ms == -1
        for overdue in (job, sooner):  # b sent no heartbeat
            client.zadd(desk.service.keys("delayed"), {overdue: 1})
            client.hset(desk.service.keys("job", overdue), "due_ts", 1)
        client.hset(desk.service.keys("alarm"), "at", 1)
        delay(60_000)
        assert 0 < desk.beat("c").next_due_ms <= 60_000
        assert [desk.status(overdue) for overdue in (job, sooner)] == ["dispatched"] * 2

    def test_no_expiry_is_kept_after_the_job_began(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        job = desk.park("mine", expires_ts=10**15)
        assert finish(desk, "n1") == job
        assert client.zcard(desk.service.keys("expiring")) == 0


#: A test chooses the demands of its jobs from these, with repetitions.
CROWD: list[dict[str, Any]] = [
    {},
    {"pool": "mt"},
    {"capabilities": ["gpu"]},
    {"capabilities": ["gpu", "large"]},
    {"priority": 9},
    {"fairness_key": "x"},
    {"session_id": "s1"},
    {"session_id": "s2", "affinity": "require"},
    {"session_id": "s2", "affinity": "none", "fairness_key": "x"},
    {"pool": None, "src_lang": "zh", "tgt_lang": "en"},
]


@pytest.mark.parametrize("seed", range(6))
def test_jobs_that_fall_due_together_wait_in_the_order_of_separate_calls(
    desk: Desk, seed: int
) -> None:
    """One heartbeat places the delayed jobs. Jobs that are sent at that time in the same order get
    the same slots and places.
    """
    client = desk.service.redis
    crowd = random.Random(seed).choices(CROWD, k=80)
    states = []
    for delay in (0, 60_000):
        client.flushall()
        desk.node("a", 2, ["asr"], ["gpu"])
        desk.node("b", 2, ["asr", "mt"])
        desk.node("c", 2, ["mt", {"id": "both", "langs": [["zh", "en"]]}], ["gpu", "large"])
        for session in ("s1", "s2"):
            desk.dispatch(session_id=session)
        due = milliseconds(client) + delay
        for number, demand in enumerate(crowd):
            desk.send(**demand, due_ts=due + number if delay else 0)
        for job_id in client.zrange(desk.service.keys("delayed"), 0, -1):  # time passes
            client.hincrby(desk.service.keys("job", job_id), "due_ts", -2 * delay)
            client.zincrby(desk.service.keys("delayed"), -2 * delay, job_id)
        desk.beat("a")
        states.append(scheduler_state(desk))
    assert states[0] == states[1]


def scheduler_state(desk: Desk) -> dict[str, Any]:
    """The placement of each job, the order of each line, and the next turn of each key."""
    client, keys = desk.service.redis, desk.service.keys
    indexes = [keys("pool_waiting", pool) for pool in ("asr", "mt", "both")]
    indexes += client.keys(keys("capable_waiting", "*", "*")) + client.keys(
        keys("pool_turns", "*", "*")
    )
    state: dict[str, Any] = {
        index: client.zrange(index, 0, -1, withscores=True) for index in indexes
    }
    state["lines"] = client.hgetall(keys("lines"))
    for line in state["lines"]:
        state[line] = client.zrange(keys("waiting", line), 0, -1, withscores=True)
    for number in range(1, int(client.get(keys("job_id_seq"))) + 1):
        for key in client.keys(f"{keys.prefix}job:*:{number}"):
            fields = ("status", "node_id", "pool", "chosen_by", "line", "ticket")
            state[key.removeprefix(keys.prefix)] = client.hmget(key, fields)
    return state
