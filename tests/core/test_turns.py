"""The order in which waiting jobs of all lines get freed slots."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_minsched import NoAvailableNode
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse

from ..support.bounds import count_commands
from ..support.desk import PAIR, Desk, beat_until, finish, park_many, running_at

CAPS = ("gpu", "big")
TURN = 1024


@dataclass
class Turns:
    """The turns of one pool and one priority, as in lua/include/fair_queue.lua."""

    now: int = 0
    of: dict[str, int] = field(default_factory=dict)

    def take(self, key: str) -> int:
        turn = max(self.now, self.of.get(key, 0))
        if turn == self.now:
            self.now += 1
        self.of[key] = turn + TURN
        return turn


@dataclass(frozen=True)
class Waiting:
    caps: frozenset[str]
    key: str
    band: int
    turn: int


#: Events: a job joins, or the job of a node ends.
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.frozensets(st.sampled_from(CAPS)),
            st.sampled_from(["x", "y", "z"]),
            st.sampled_from([0, 9]),
        ),
        st.sampled_from(["plain", "gpu", "both"]),
    ),
    max_size=60,
)


@given(steps=STEPS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_freed_slot_goes_to_the_first_job_of_all_lines_that_its_node_can_serve(
    desk: Desk, steps: list[Any]
) -> None:
    desk.service.redis.flushall()
    nodes = {"plain": frozenset[str](), "gpu": frozenset({"gpu"}), "both": frozenset(CAPS)}
    for node_id, caps in nodes.items():
        desk.node(node_id, 1, caps=sorted(caps))
        desk.dispatch(preferred_node=node_id)
    turns = {0: Turns(), 3: Turns()}
    waiting: dict[str, Waiting] = {}
    for step in [*steps, *["both"] * len(steps)]:
        if isinstance(step, str):
            fitting = [job for job in waiting.values() if job.caps <= nodes[step]]
            taken = finish(desk, step) if running_at(desk, step) else ""
            assert bool(taken) == bool(fitting)
            if taken:
                first = min((job.band, job.turn) for job in fitting)
                job = waiting.pop(taken)
                assert job.caps <= nodes[step]
                assert (job.band, job.turn) == first
                turns[job.band].now = max(turns[job.band].now, job.turn)
            continue
        caps, key, priority = step
        job = desk.send(capabilities=sorted(caps), fairness_key=key, priority=priority)
        band = priority // 3
        if not job.node_id:
            waiting[job.job_id] = Waiting(caps, key, band, turns[band].take(key))
    assert Checker(desk.views).check() == []


def order_of_ends(desk: Desk, node_id: str, number: int) -> list[str]:
    return [finish(desk, node_id) for _ in range(number)]


def test_a_tenant_gains_no_slots_by_many_demands(desk: Desk) -> None:
    """One tenant has 62 demands, and another has one. Each tenant gets every second slot."""
    caps = [f"c{number}" for number in range(6)]
    desk.node("n1", 1, caps=caps)
    desk.dispatch()
    demands = [list(some) for size in range(1, 6) for some in combinations(caps, size)]
    assert len(demands) == 62
    park_many(
        desk, [{"capabilities": some, "fairness_key": "many"} for some in demands for _ in range(5)]
    )
    park_many(desk, [{"fairness_key": "one"}] * 100)
    client, keys = desk.service.redis, desk.service.keys
    jobs_by_key = Counter(
        client.hget(keys("job", job), "fairness") for job in order_of_ends(desk, "n1", 100)
    )
    assert abs(jobs_by_key["one"] - jobs_by_key["many"]) <= 1


def test_a_higher_priority_is_first_across_lines(desk: Desk) -> None:
    desk.node("n1", 1, caps=["gpu"])
    desk.dispatch()
    low = park_many(desk, [{"capabilities": ["gpu"], "priority": 9} for _ in range(5)])
    high = park_many(desk, [{"fairness_key": f"u{number}"} for number in range(5)])
    assert order_of_ends(desk, "n1", 10) == high + low


def test_of_equal_jobs_the_older_one_is_first_across_lines(desk: Desk) -> None:
    desk.node("n1", 1, caps=["gpu", "big"])
    desk.dispatch()
    demands = [[], ["gpu"], ["big"], ["big", "gpu"], ["gpu"], [], ["big"]]
    jobs = [desk.park(capabilities=caps, fairness_key=f"u{n}") for n, caps in enumerate(demands)]
    same = [desk.park(capabilities=caps, fairness_key="u0") for caps in demands]
    assert order_of_ends(desk, "n1", 14) == jobs + same


def test_new_keys_do_not_delay_the_second_job_of_a_key_for_ever(desk: Desk) -> None:
    """A steady flow of jobs with different keys passes a job at most 1,024 times."""
    desk.node("n1", 1)
    desk.dispatch()
    park_many(desk, [{"fairness_key": "u"}])
    [second] = park_many(desk, [{"fairness_key": "u"}])
    for page in range(11):
        park_many(desk, [{"fairness_key": f"new-{page}-{n}"} for n in range(100)])
        order_of_ends(desk, "n1", 90)
    assert desk.status(second) == "waiting"
    order_of_ends(desk, "n1", 1024 - 990 + 2)
    assert desk.status(second) != "waiting"


@pytest.mark.parametrize("pools", [["asr", "mt"], ["mt", "asr"]])
def test_a_node_serves_its_pools_in_turn(desk: Desk, pools: list[str]) -> None:
    desk.node("n1", 1, pools)
    desk.dispatch()
    flood = park_many(desk, [{} for _ in range(6)])
    few = park_many(desk, [{} for _ in range(3)], pool="mt")
    urgent = park_many(desk, [{} for _ in range(2)], pool="mt")
    order = order_of_ends(desk, "n1", 11)
    assert [job in flood for job in order[:10]] == [pools[0] == "asr", pools[0] != "asr"] * 5
    assert [job for job in order if job in flood] == flood
    assert [job for job in order if job not in flood] == few + urgent


class TestOwnLineFirst:
    """A new job takes no slot that an earlier job of its line could have."""

    def test_an_earlier_job_is_first_after_a_pause(self, desk: Desk) -> None:
        for number in range(30):
            desk.node(f"n{number}", 8)
        desk.service.pause_pool("asr")
        earlier = park_many(desk, [{}] * 400)
        desk.service.pause_pool("asr", paused=False)
        new = [desk.send().job_id for _ in range(20)]
        started = {job for job in earlier + new if desk.status(job) == "dispatched"}
        assert len(started) == 240  # the calls of the new jobs fill the nodes
        assert not started & set(new)

    def test_an_earlier_job_is_first_when_a_large_node_joins(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        earlier = park_many(desk, [{}] * 250)
        desk.node("big", 500)
        new = [desk.send(fairness_key="new", preferred_node="big") for _ in range(3)]
        assert {desk.status(job) for job in earlier} == {"dispatched"}
        assert [job.node_id for job in new] == ["", "big", "big"]
        assert desk.status(new[0].job_id) == "dispatched"

    def test_an_earlier_job_is_first_in_a_batch(self, desk: Desk) -> None:
        desk.node("n1", 400)
        desk.service.pause_pool("asr")
        earlier = park_many(desk, [{}] * 250)
        desk.service.pause_pool("asr", paused=False)
        new = park_many(desk, [{"fairness_key": "new"}] * 10)
        assert desk.taken("n1") == 200
        assert desk.beat("n1").next_due_ms == -1
        assert {desk.status(job) for job in earlier + new} == {"dispatched"}

    def test_a_job_that_may_not_wait_is_refused(self, desk: Desk) -> None:
        desk.node("n1", 250)
        desk.service.pause_pool("asr")
        park_many(desk, [{}] * 240)
        desk.service.pause_pool("asr", paused=False)
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        assert desk.taken("n1") == 200
        assert desk.dispatch().node_id == "n1"
        assert desk.taken("n1") == 241


class TestSearch:
    """Lines of several capabilities. The node has the capability whose index contains the lines."""

    @pytest.fixture
    def target(self, desk: Desk) -> str:
        """Lines that "n1" cannot serve. Behind them, the same index has a job that "n1" can run."""
        desk.node("n1", 1, caps=["rare", "z"])
        desk.dispatch()
        common = [f"a{number}" for number in range(80)]
        for number in range(3):
            desk.node(f"other{number}", 1, caps=["z", *common])
            desk.service.drain_node(f"other{number}")
        pairs = list(combinations(common, 2))[:2200]
        park_many(desk, [{"capabilities": ["rare", *pair]} for pair in pairs])
        assert desk.service.redis.zcard("scheduler:pool:asr:waiting:rare") == 2200
        return self.wait(desk)

    @staticmethod
    def wait(desk: Desk) -> str:
        return desk.park(capabilities=["rare", "z"])

    def test_a_search_continues_at_the_next_heartbeat_and_rests_until_a_change(
        self, desk: Desk, target: str
    ) -> None:
        assert finish(desk, "n1") == ""  # the search is cut short
        beat_until(desk, "n1", lambda: desk.status(target) == "dispatched")
        assert running_at(desk, "n1") == [target]
        assert finish(desk, "n1") == ""
        assert beat_until(desk, "n1", lambda: False) <= 3
        client = desk.service.redis
        assert count_commands(client, lambda: desk.beat("n1")) < 60
        assert client.pttl("scheduler:node:searches:n1") > 0
        busy = desk.dispatch()
        job = self.wait(desk)
        desk.complete(busy)
        assert desk.beat("n1").next_due_ms == -1
        assert desk.status(job) == "waiting"  # for node_ttl at most
        desk.node("n1", 1, caps=["rare", "z", "new"])
        beat_until(desk, "n1", lambda: desk.status(job) == "dispatched")
        assert desk.status(job) == "dispatched"


def test_a_returned_job_is_first_of_all_lines_of_its_pool(desk: Desk) -> None:
    client, keys = desk.service.redis, desk.service.keys
    desk.node("n1", 1, caps=["gpu"])
    desk.dispatch()
    first = desk.park(capabilities=["gpu"])
    park_many(desk, [{"fairness_key": f"u{n}"} for n in range(5)])
    assert finish(desk, "n1") == first
    client.delete(keys("node_queue", "n1"))
    client.lpush(keys("job_queue", first), first)
    desk.service.drain_node("n1")
    assert desk.service.place_jobs([first], handed_back_by="n1") == ["waiting"]
    desk.service.drain_node("n1", draining=False)
    assert running_at(desk, "n1") == [first]


def test_virtual_time_advances_in_a_batch_that_fills_a_node_from_its_line(desk: Desk) -> None:
    """One job of the batch joins a line before the node is filled, and one joins after it."""
    client, keys = desk.service.redis, desk.service.keys
    desk.node("n1", 1)
    desk.dispatch()
    park_many(desk, [{"fairness_key": "x"}] * 10)
    for _ in range(5):
        finish(desk, "n1")
    desk.service.pause_pool("asr")
    [job] = running_at(desk, "n1")
    desk.complete(DispatchResponse(node_id="n1", job_id=job))
    client.srem(keys("paused"), "asr")  # and no node is filled
    other, late = ({"capabilities": ["none"], "fairness_key": "z"}, {"fairness_key": "y"})
    before = client.zscore(keys("pool_turns", "asr", 0), "now")
    desk.send_many([other, late])
    assert client.zscore(keys("pool_turns", "asr", 0), "now") == before + 1024 + 1


def test_a_search_skips_no_line_when_it_links_another_one_again(desk: Desk) -> None:
    """The first line of the pool's index is linked to its own node, which is back and full."""
    for node_id in "ab":
        desk.node(node_id, 1)
    running = [desk.dispatch(preferred_node=node_id) for node_id in "ab"]
    desk.park(preferred_node="a", affinity="require")
    desk.service.drain_node("a")
    plain = desk.park()
    desk.service.drain_node("a", draining=False)
    desk.complete(running[1])
    assert running_at(desk, "b") == [plain]


class TestRevokedJobs:
    """Turns of revoked jobs are given back if no other job of their key waits."""

    def revoke(self, desk: Desk, *numbers: int) -> None:
        desk.service.revoke_tasks([f"t{number}" for number in numbers], "n1")

    @pytest.fixture
    def jobs(self, desk: Desk) -> list[str]:
        desk.node("n1", 1)
        desk.dispatch()
        return park_many(desk, [{"fairness_key": "x", "task_id": f"t{n}"} for n in range(30)])

    def test_a_later_job_of_the_key_overtakes_no_earlier_one(
        self, desk: Desk, jobs: list[str]
    ) -> None:
        self.revoke(desk, *range(20), 29)
        [new] = park_many(desk, [{"fairness_key": "x"}])
        assert order_of_ends(desk, "n1", 10) == [*jobs[20:29], new]

    def test_no_turn_is_lost_when_all_jobs_are_gone(self, desk: Desk, jobs: list[str]) -> None:
        self.revoke(desk, *range(1, 30))
        assert order_of_ends(desk, "n1", 1) == [jobs[0]]
        flood = park_many(desk, [{"fairness_key": "y"}] * 5)
        [new] = park_many(desk, [{"fairness_key": "x"}])
        assert new in order_of_ends(desk, "n1", 3)
        assert flood[0] not in running_at(desk, "n1")


def test_turns_are_kept_while_jobs_wait_and_no_longer(desk: Desk) -> None:
    """Jobs may wait for longer than the TTL of ended jobs' records."""
    client, turns = desk.service.redis, desk.service.keys("pool_turns", "asr", 0)
    desk.node("n1", 1)
    desk.dispatch()
    park_many(desk, [{"fairness_key": f"u{n % 3}"} for n in range(9)])
    month = 30 * 86400 * 1000
    assert month - 60_000 < client.pttl(turns) <= month
    order_of_ends(desk, "n1", 9)
    assert client.pttl(turns) <= 86400 * 1000
    assert not [member for member in client.zrange(turns, 0, -1) if member.startswith("in ")]


class TestPairs:
    """A job for a language pair that a busy pool and a quiet pool serve."""

    @pytest.fixture(autouse=True)
    def pools(self, desk: Desk) -> None:
        """100 turns have passed in pool "a" and none in "b", where one key floods."""
        for pool in "ab":
            desk.node(pool, 1, [pool])
            desk.dispatch(pool=pool)
        desk.service.set_language_pools("zh", "en", ["a", "b"])
        park_many(desk, [{"fairness_key": "busy"}] * 100, pool="a")
        order_of_ends(desk, "a", 100)
        park_many(desk, [{"fairness_key": "flood"}] * 60, pool="b")

    def test_a_key_that_demands_the_pair_loses_no_turns_in_the_quiet_pool(self, desk: Desk) -> None:
        pair = desk.park(**PAIR, fairness_key="f")
        other = desk.park(pool="b", fairness_key="f")
        assert {pair, other} < set(order_of_ends(desk, "b", 4))

    @pytest.mark.parametrize("node_id", ["a", "b"])
    def test_a_served_job_moves_no_pool_past_its_flood(self, desk: Desk, node_id: str) -> None:
        pair = desk.park(**PAIR, fairness_key="f")
        assert pair in order_of_ends(desk, node_id, 2)
        new = desk.park(pool="b", fairness_key="new")
        assert new in order_of_ends(desk, "b", 3)

    def test_a_flood_for_the_pair_costs_its_key_no_turns_in_a_pool_without_pairs(
        self, desk: Desk
    ) -> None:
        park_many(desk, [{**PAIR, "fairness_key": "f"}] * 20, pool=None)
        order_of_ends(desk, "a", 20)
        mine = desk.park(pool="b", fairness_key="f")
        assert mine in order_of_ends(desk, "b", 2)

    def test_a_flood_that_waited_before_a_pool_came_takes_turns_there(self, desk: Desk) -> None:
        flood = park_many(desk, [{"src_lang": "fr", "tgt_lang": "en"}] * 60, pool=None)
        desk.service.set_language_pools("fr", "en", ["b"])
        new = desk.park(pool="b", fairness_key="new")
        order = order_of_ends(desk, "b", 6)
        assert new in order
        assert sum(job in flood for job in order) in (2, 3)
