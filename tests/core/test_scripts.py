"""The scheduler without Celery: the flows, their errors, and that each done twice is done once."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import redis

from celery_minsched import (
    Backlogged,
    EmptyPool,
    MinimalSchedulerService,
    NoAvailableNode,
    NodeIdInUse,
    NodeMismatch,
    NoPoolForLangPair,
    SchedulerError,
    Settings,
    UnknownJob,
    UnknownNode,
)
from celery_minsched.core.models import DispatchResponse

from ..support.desk import Desk, silence


def test_the_four_flows(desk: Desk) -> None:
    desk.node("n1")
    job = desk.dispatch(session_id="u42", payload_json='{"audio": 7}')
    assert (job.node_id, job.pool, job.job_id) == ("n1", "asr", "u42:1")
    assert desk.taken("n1") == 1
    assert desk.beat("n1", load_json='{"cpu": 40}', jobs=[job.job_id]).current_jobs == 1
    assert desk.status(job.job_id) == "running"
    assert not desk.complete(job).already_ended
    assert desk.taken("n1") == 0
    assert desk.status(job.job_id) == "finished"


def test_each_script_twice_is_once(desk: Desk) -> None:
    desk.node("n1")
    desk.node("n1")
    first = desk.dispatch(task_id="t1", token="one call")
    assert desk.dispatch(task_id="t1", token="one call") == first
    assert desk.dispatch(task_id="t1", token="another call") != first
    assert desk.taken("n1") == 2
    desk.beat("n1", jobs=[first.job_id])
    desk.beat("n1", jobs=[first.job_id])
    assert desk.taken("n1") == 2
    assert not desk.complete(first).already_ended
    assert desk.complete(first, "failed").already_ended
    assert (desk.taken("n1"), desk.status(first.job_id)) == (1, "finished")
    desk.service.release_job(first.job_id)
    assert desk.taken("n1") == 1


class TestLoadOrder:
    def test_the_smallest_share_of_slots_taken_comes_first(self, desk: Desk) -> None:
        desk.node("small", 1)
        desk.node("large", 4)
        desk.beat("large", load_json='{"cpu": 90}')
        assert desk.dispatch().node_id == "small"  # both empty: the load decides
        assert [desk.dispatch().node_id for _ in range(4)] == ["large"] * 4

    def test_then_the_smallest_load(self, desk: Desk) -> None:
        for node_id, cpu in (("a", 60), ("b", 5), ("c", 30)):
            desk.node(node_id)
            desk.beat(node_id, load_json=json.dumps({"cpu": cpu, "gpu": cpu, "mem": cpu}))
        assert [desk.dispatch().node_id for _ in range(3)] == ["b", "c", "a"]

    def test_noise_in_the_reported_load_chooses_no_node(self, desk: Desk) -> None:
        """A load is low, medium or high. In each round every idle node gets one of the jobs."""
        noise = random.Random(16)
        nodes = [f"n{number}" for number in range(20)]
        for node_id in nodes:
            desk.node(node_id)
        for base in (2, 15, 29, 50, 90):
            for node_id in nodes:
                cpu = max(0, base + noise.uniform(-4, 4))
                desk.beat(node_id, load_json=json.dumps({"cpu": cpu}))
            chosen = []
            for _ in nodes:
                job = desk.dispatch()
                chosen.append(job.node_id)
                desk.complete(job)
            assert sorted(chosen) == sorted(nodes)

    def test_the_levels_of_the_load_are_thirds_of_100_percent(self, desk: Desk) -> None:
        for node_id, cpu in (("a", 33), ("b", 34), ("c", 66), ("d", 67), ("e", 0.9), ("f", 100)):
            desk.node(node_id)
            desk.beat(node_id, load_json=json.dumps({"cpu": cpu}))
        order = "".join(desk.dispatch().node_id for _ in range(6))
        assert [set(order[at : at + 2]) for at in (0, 2, 4)] == [set("ae"), set("bc"), set("df")]

    def test_then_the_one_chosen_longest_ago(self, desk: Desk) -> None:
        for node_id in "abc":
            desk.node(node_id)
        order = []
        for _ in range(6):
            job = desk.dispatch()
            order.append(job.node_id)
            desk.complete(job)
        assert order[:3] == order[3:]
        assert set(order) == set("abc")

    @pytest.mark.parametrize("turns", [2**38, 2**39, 3 * 2**38, 2**40, 2**52 + 2**38])
    def test_also_when_the_turns_have_been_counted_for_long(
        self, desk: Desk, client: redis.Redis, turns: int
    ) -> None:
        """The counter passes ``turns`` half-way. A node joins before it jumps, and others after."""
        desk.node("a")
        client.set(desk.service.keys("turn"), turns - 20)
        for node_id in "bcd":
            desk.node(node_id)
        order = []
        for _ in range(40):
            job = desk.dispatch()
            order.append(job.node_id)
            desk.complete(job)
        assert set(order[:4]) == set("abcd")
        assert order == order[:4] * 10


class TestSessions:
    def test_a_session_stays_at_its_node(self, desk: Desk) -> None:
        desk.node("a", 4)
        desk.node("b", 4)
        first = desk.dispatch(session_id="u1").node_id
        jobs = [desk.dispatch(session_id="u1") for _ in range(3)]
        assert {job.node_id for job in jobs} == {first}
        assert {job.chosen_by for job in jobs} == {"sticky"}

    def test_and_moves_when_that_is_full(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.node("b", 1)
        first = desk.dispatch(session_id="u1")
        moved = desk.dispatch(session_id="u1")
        assert moved.node_id != first.node_id
        desk.complete(first)
        desk.complete(moved)
        assert desk.dispatch(session_id="u1").node_id == moved.node_id

    def test_it_keeps_its_pool_when_its_node_is_full(self, desk: Desk) -> None:
        pair = {"pool": None, "src_lang": "zh", "tgt_lang": "en"}
        desk.node("a", 1, [{"id": "p1", "langs": [["zh", "en"]]}])
        first = desk.dispatch(session_id="u1", **pair)
        desk.node("b", 1, ["p1"])
        desk.node("other", 9, [{"id": "p2", "langs": [["zh", "en"]]}])
        assert (first.node_id, desk.dispatch(session_id="u1", **pair).node_id) == ("a", "b")

    def test_the_preferred_node_wins_if_it_has_a_slot(self, desk: Desk) -> None:
        desk.node("a", 4)
        desk.node("b", 1)
        desk.dispatch(session_id="u1", preferred_node="a")
        assert desk.dispatch(session_id="u1", preferred_node="b").node_id == "b"
        assert desk.dispatch(session_id="u1", preferred_node="b").node_id == "a"

    def test_affinity_none_ignores_the_session(self, desk: Desk) -> None:
        desk.node("a", 4)
        desk.node("b", 4)
        homes = {desk.dispatch(session_id="u1", affinity="none").node_id for _ in range(2)}
        assert homes == {"a", "b"}

    def test_affinity_require_waits_for_the_node_while_it_is_there(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.node("b", 1)
        first = desk.dispatch(session_id="u1", affinity="require")
        with pytest.raises(NoAvailableNode):
            desk.dispatch(session_id="u1", affinity="require")
        desk.beat(first.node_id, online=False)
        other = "b" if first.node_id == "a" else "a"
        assert desk.dispatch(session_id="u1", affinity="require").node_id == other


class TestWhatANodeCanDo:
    def test_a_rare_capability_is_found_in_a_large_pool(self, desk: Desk) -> None:
        for number in range(30):
            desk.node(f"n{number}", 4)
        desk.node("special", 1, caps=["whisper"])
        assert desk.dispatch(capabilities=["whisper"]).node_id == "special"
        with pytest.raises(NoAvailableNode):
            desk.dispatch(capabilities=["whisper"])

    def test_all_the_capabilities_are_needed(self, desk: Desk) -> None:
        desk.node("gpu", caps=["gpu"])
        desk.node("big", caps=["big"])
        with pytest.raises(EmptyPool):
            desk.dispatch(capabilities=["gpu", "big"])
        desk.node("both", caps=["gpu", "big", "other"])
        assert desk.dispatch(capabilities=["big", "gpu"]).node_id == "both"

    def test_a_pool_that_lists_pairs_serves_no_others(self, desk: Desk) -> None:
        desk.node("a", pools=[{"id": "mt", "langs": [["zh", "en"]]}, "any"])
        zh_en, zh_fr = {"src_lang": "zh", "tgt_lang": "en"}, {"src_lang": "zh", "tgt_lang": "fr"}
        assert desk.dispatch(pool="mt", **zh_en).pool == "mt"
        assert desk.dispatch(pool="any", **zh_fr).pool == "any"
        with pytest.raises(NoPoolForLangPair, match="'zh' to 'fr'"):
            desk.dispatch(pool="mt", **zh_fr)

    def test_auto_looks_the_pair_up_in_both_directions(self, desk: Desk) -> None:
        desk.node("a", pools=[{"id": "mt", "langs": [["zh", "en"]]}])
        for pair in ("zh:en", "en:zh"):
            assert desk.dispatch(pool=None, src_lang="auto", tgt_lang=pair).pool == "mt"

    def test_a_pair_is_mapped_to_pools_without_a_node_saying_so(self, desk: Desk) -> None:
        desk.node("a")
        pair = {"pool": None, "src_lang": "zh", "tgt_lang": "en"}
        with pytest.raises(NoPoolForLangPair):
            desk.dispatch(**pair)
        desk.service.set_language_pools("zh", "en", ["asr"])
        assert desk.dispatch(**pair).node_id == "a"
        desk.service.set_language_pools("zh", "en", [])
        with pytest.raises(NoPoolForLangPair):
            desk.dispatch(**pair)

    def test_what_a_node_no_longer_offers_it_is_taken_out_of(self, desk: Desk) -> None:
        desk.node("a", pools=[{"id": "mt", "langs": [["zh", "en"]]}, "asr"], caps=["gpu"])
        desk.node("a", pools=["asr"])
        for demand in (
            {"pool": "mt"},
            {"capabilities": ["gpu"]},
            {"pool": None, "src_lang": "zh", "tgt_lang": "en"},
        ):
            with pytest.raises((EmptyPool, NoPoolForLangPair)):
                desk.dispatch(**demand)
        assert desk.dispatch().node_id == "a"

    def test_pools_may_be_numbers(self, desk: Desk) -> None:
        desk.node("a", pools=[1, 2])
        assert desk.dispatch(pool=1).pool == "1"


class TestErrors:
    def test_each_has_its_code_its_values_and_a_sentence(self, desk: Desk) -> None:
        desk.node("n1", 1)
        job = desk.dispatch()
        cases: list[tuple[type[SchedulerError], Any, dict[str, object], str]] = [
            (EmptyPool, lambda: desk.dispatch(pool="mt"), {"pool": "mt"}, "--pool mt"),
            (EmptyPool, lambda: desk.dispatch(capabilities=["x"]), {}, "--capability x"),
            (NoAvailableNode, desk.dispatch, {"demand": "pool asr"}, "add a node"),
            (UnknownNode, lambda: desk.beat("n9"), {"node_id": "n9"}, "Call register_node"),
            (
                NoPoolForLangPair,
                lambda: desk.dispatch(pool=None, src_lang="zh", tgt_lang="en"),
                {"src_lang": "zh", "tgt_lang": "en"},
                "--lang zh:en",
            ),
            (
                NodeMismatch,
                lambda: desk.complete(job.model_copy(update={"node_id": "n2"})),
                {"owner": "n1", "node_id": "n2"},
                "drop the result",
            ),
            (
                UnknownJob,
                lambda: desk.complete(job.model_copy(update={"job_id": "u:99"})),
                {"job_id": "u:99"},
                "lapsed",
            ),
            (
                NodeIdInUse,
                lambda: desk.node("n1", instance="another process"),
                {"node_id": "n1"},
                "another id",
            ),
        ]
        for kind, call, values, advice in cases:
            with pytest.raises(kind) as caught:
                call()
            assert str(caught.value).startswith(f"{kind.code}: ")
            assert advice in str(caught.value)
            assert values.items() <= caught.value.values.items()
        assert desk.taken("n1") == 1

    def test_they_survive_pickling(self) -> None:
        import pickle

        error = UnknownNode(node_id="n1")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


class TestNodes:
    def test_a_crashed_node_s_id_is_free_once_it_lapsed(self, client: redis.Redis) -> None:
        settings = Settings(node_ttl=0.2, heartbeat_interval=0.05)
        desk = Desk(MinimalSchedulerService(client, settings))
        desk.node("n1")
        with pytest.raises(NodeIdInUse):
            desk.node("n1", instance="next")
        silence(desk, "n1", 1000)
        desk.node("n1", instance="next")
        with pytest.raises(UnknownNode):
            desk.beat("n1", instance="first")

    def test_a_silent_node_leaves_dispatch_and_comes_back(self, desk: Desk) -> None:
        desk.node("n1")
        silence(desk, "n1", 9000)
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.beat("n1")
        assert desk.dispatch().node_id == "n1"

    def test_fewer_slots_than_are_taken(self, desk: Desk) -> None:
        desk.node("n1", 3)
        jobs = [desk.dispatch() for _ in range(3)]
        desk.node("n1", 1)
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        for job in jobs:
            desk.complete(job)
        assert desk.dispatch().node_id == "n1"

    def test_a_drained_node_finishes_what_it_has(self, desk: Desk) -> None:
        desk.node("n1")
        job = desk.dispatch()
        assert desk.service.drain_node("n1") == 1
        assert desk.beat("n1").draining
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.complete(job)
        desk.node("n1")  # it stays drained
        with pytest.raises(NoAvailableNode):
            desk.dispatch()
        desk.service.drain_node("n1", draining=False)
        assert desk.dispatch().node_id == "n1"
        with pytest.raises(UnknownNode):
            desk.service.drain_node("n9")


class TestHeartbeatMends:
    def test_what_the_node_holds_and_redis_lost(
        self, desk: Desk, client: redis.Redis, service: MinimalSchedulerService
    ) -> None:
        desk.node("n1")
        job = desk.dispatch()
        client.delete(service.keys("node_jobs", "n1"), service.keys("job", job.job_id))
        desk.beat("n1", jobs=[job.job_id])
        assert (desk.taken("n1"), desk.status(job.job_id)) == (1, "running")

    def test_a_reservation_that_the_node_never_confirmed(
        self, desk: Desk, client: redis.Redis, service: MinimalSchedulerService
    ) -> None:
        desk.node("n1")
        job = desk.dispatch()
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1  # the message may be on its way
        client.zadd(service.keys("node_jobs", "n1"), {job.job_id: 1})
        client.lpush(service.keys("node_queue", "n1"), "its message, perhaps")
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1
        client.delete(service.keys("node_queue", "n1"))
        desk.beat("n1", jobs=[])
        assert desk.taken("n1") == 1  # the node may have taken it just now
        client.zadd(service.keys("node_jobs", "n1"), {job.job_id: 1})
        desk.beat("n1", jobs=[])
        assert (desk.taken("n1"), desk.status(job.job_id)) == (0, "lost")

    def test_what_is_another_node_s(self, desk: Desk) -> None:
        desk.node("n1", 1)
        job = desk.dispatch()
        desk.node("n2", 1)
        assert desk.beat("n2", jobs=[job.job_id]).not_yours == [job.job_id]
        assert (desk.taken("n1"), desk.taken("n2")) == (1, 0)


class TestWaiting:
    def test_a_slot_that_frees_goes_to_the_first_in_line(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        first, second = desk.park("first"), desk.park("second")
        assert [desk.status(job) for job in (first, second)] == ["waiting", "waiting"]
        desk.complete(running)
        assert desk.queue("n1") == ["first"]
        assert (desk.status(first), desk.status(second)) == ("dispatched", "waiting")

    def test_a_node_that_joins_takes_who_waits(self, desk: Desk) -> None:
        job = desk.park("message")
        assert [line.possible for line in desk.views.lines()] == [False]
        desk.node("n1", 1)
        assert (desk.queue("n1"), desk.status(job)) == (["message"], "dispatched")

    def test_a_message_is_sent_with_its_job_s_id_in_the_step_that_places_it(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 1)
        demands = [{"session_id": 'a"\\ü'}, {"session_id": "u2", "due_ts": 10**15}, {"priority": 9}]
        placed, delayed, waits = desk.send_many(demands, "text")
        assert [job.chosen_by for job in (placed, delayed, waits)] == [
            "least_loaded",
            "delayed",
            "busy",
        ]
        keys = desk.service.keys
        lists = [
            keys("node_queue", "n1"),
            keys("job_queue", delayed.job_id),
            keys("job_queue", waits.job_id) + keys.suffixes[3],
        ]
        assert set(client.keys("minsched.*")) == set(lists)
        for name, job in zip(lists, (placed, delayed, waits), strict=True):
            [message] = client.lrange(name, 0, -1)
            assert json.loads(message) == {"text": "text", "job_id": job.job_id}

    def test_a_call_made_again_sends_nothing_again(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        demands = [{"task_id": f"t{n}", "token": f"one call {n}"} for n in range(3)]
        first = desk.send_many(demands)
        again = desk.send_many(demands)
        assert [job.job_id for job in again] == [job.job_id for job in first]
        assert len(desk.queue("n1")) == 1
        assert sorted(client.llen(key) for key in client.keys("minsched.job.*")) == [1, 1]

    def test_of_many_those_before_the_refused_one_are_sent(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 2)
        with pytest.raises(EmptyPool):
            desk.send_many([{}, {"pool": "none", "when_full": "error"}, {}])
        assert (desk.taken("n1"), len(desk.queue("n1"))) == (1, 1)

    def test_one_without_a_message_cannot_wait(self, desk: Desk) -> None:
        desk.node("n1", 1)
        assert desk.dispatch(when_full="wait", due_ts=10**15).node_id == "n1"
        with pytest.raises(NoAvailableNode):
            desk.dispatch(when_full="wait")

    def test_busy_and_impossible_are_told_apart(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        assert desk.send().chosen_by == "busy"
        assert desk.send(capabilities=["gpu"]).chosen_by == "impossible"
        assert desk.send(pool="mt").chosen_by == "impossible"

    def test_a_line_is_bounded(self, client: redis.Redis) -> None:
        desk = Desk(MinimalSchedulerService(client, Settings(max_waiting=2)))
        desk.node("n1", 1)
        desk.dispatch()
        desk.park(), desk.park()
        before = client.dbsize()
        with pytest.raises(Backlogged, match="2 jobs wait"):
            desk.send()
        assert client.dbsize() == before

    def test_a_capability_does_not_block_those_behind(self, desk: Desk) -> None:
        desk.node("plain", 1)
        desk.node("gpu", 1, caps=["gpu"])
        desk.dispatch(preferred_node="gpu")
        running = desk.dispatch()
        special, plain = desk.park("special", capabilities=["gpu"]), desk.park("plain")
        desk.complete(running)
        assert (desk.status(special), desk.status(plain)) == ("waiting", "dispatched")
        assert desk.queue("plain") == ["plain"]

    def test_priority_then_age(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        for name, priority in (("low", 9), ("first", 0), ("second", 0)):
            desk.send(name, priority=priority)
        order = []
        for _ in range(3):
            desk.complete(running)
            taken = desk.service.redis.zrange(desk.service.keys("node_jobs", "n1"), 0, -1)
            running = DispatchResponse(node_id="n1", job_id=taken[0])
            order.append(desk.take("n1"))
        assert order == ["first", "second", "low"]

    def test_one_that_floods_stands_behind_itself(self, desk: Desk) -> None:
        desk.node("n1", 1)
        running = desk.dispatch()
        for number in range(6):
            desk.park(f"flood {number}", fairness_key="flood")
        for number in range(3):
            desk.park(f"other {number}", fairness_key="other")
        order = []
        for _ in range(6):
            desk.complete(running)
            job_id = desk.service.redis.zrange(desk.service.keys("node_jobs", "n1"), 0, -1)[0]
            running = DispatchResponse(node_id="n1", job_id=job_id)
            order.append(desk.take("n1"))
        assert sorted(order) == sorted(f"{who} {n}" for n in range(3) for who in ("flood", "other"))

    def test_lines_that_compete_for_a_slot_take_turns(self, desk: Desk) -> None:
        desk.node("n1", 1, ["asr", "mt"])
        running = desk.dispatch()
        for number in range(3):
            desk.park(f"asr {number}")
        for number in range(3):
            desk.park(f"mt {number}", pool="mt")
        order = []
        for _ in range(6):
            desk.complete(running)
            job_id = desk.service.redis.zrange(desk.service.keys("node_jobs", "n1"), 0, -1)[0]
            running = DispatchResponse(node_id="n1", job_id=job_id)
            order.append(desk.take("n1").split()[0])
        assert order in (["asr", "mt"] * 3, ["mt", "asr"] * 3)

    def test_who_requires_a_node_waits_for_it_and_not_when_it_is_gone(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.dispatch(session_id="u1")
        desk.node("b", 1)
        job = desk.park("mine", session_id="u1", affinity="require")
        assert desk.status(job) == "waiting"  # although b is free
        desk.service.drain_node("a")
        assert (desk.status(job), desk.queue("b")) == ("dispatched", ["mine"])

    def test_a_delayed_job_holds_no_slot_before_it_is_due(
        self, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1", 1)
        seconds, micro = client.time()
        due = seconds * 1000 + micro // 1000 + 3_600_000
        job = desk.send("later", due_ts=due)
        assert (job.chosen_by, desk.taken("n1")) == ("delayed", 0)
        assert 0 < desk.beat("n1").next_due_ms <= 3_600_000
        client.zadd(desk.service.keys("delayed"), {job.job_id: 1})
        client.hset(desk.service.keys("job", job.job_id), "due_ts", 1)
        desk.beat("n1")
        assert (desk.taken("n1"), desk.queue("n1")) == (1, ["later"])

    def test_revoked_while_it_waits(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        job = desk.park("message", task_id="t1")
        assert desk.service.revoke_tasks(["t1"], "n1")
        assert not desk.service.revoke_tasks(["t1"], "n1")
        assert desk.queue("n1") == ["message"]  # whose worker tells the caller
        assert (desk.taken("n1"), desk.status(job), desk.views.lines()) == (1, "failed", [])
        assert desk.service.claim_job(job, "n1") == ("discard", {})

    def test_expired_while_it_waits(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        job = desk.park("message", expires_ts=10)
        desk.beat("n1")
        assert (desk.queue("n1"), desk.status(job), desk.views.lines()) == (
            ["message"],
            "failed",
            [],
        )

    def test_handed_back(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("a", 1)
        job = desk.dispatch()
        desk.node("b", 1)
        desk.service.drain_node("a")
        client.lpush(desk.service.keys("job_queue", job.job_id), "again")
        assert desk.service.place_jobs([job.job_id], handed_back_by="a") == ["dispatched"]
        assert (desk.taken("a"), desk.taken("b"), desk.queue("b")) == (0, 1, ["again"])
        with pytest.raises(NodeMismatch):
            desk.complete(job)
