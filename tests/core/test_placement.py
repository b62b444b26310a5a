"""The choice of a node: load order, sessions, capabilities and language pairs."""

from __future__ import annotations

import json
import random

import pytest
import redis

from celery_minsched import (
    EmptyPool,
    NoAvailableNode,
    NoPoolForLangPair,
)

from ..support.desk import Desk


def chosen_nodes(desk: Desk, jobs: int) -> list[str]:
    """The nodes of jobs that run one after another."""
    nodes = []
    for _ in range(jobs):
        job = desk.dispatch()
        nodes.append(job.node_id)
        desk.complete(job)
    return nodes


class TestLoadOrder:
    def test_the_node_with_the_smallest_share_of_taken_slots_is_first(self, desk: Desk) -> None:
        desk.node("small", 1)
        desk.node("large", 4)
        desk.beat("large", load_json='{"cpu": 90}')
        assert desk.dispatch().node_id == "small"  # both empty: the load decides
        assert [desk.dispatch().node_id for _ in range(4)] == ["large"] * 4

    def test_of_equal_shares_the_smallest_load_is_first(self, desk: Desk) -> None:
        for node_id, cpu in (("a", 60), ("b", 5), ("c", 30)):
            desk.node(node_id)
            desk.beat(node_id, load_json=json.dumps({"cpu": cpu, "gpu": cpu, "mem": cpu}))
        assert [desk.dispatch().node_id for _ in range(3)] == ["b", "c", "a"]

    def test_noise_in_the_reported_load_has_no_effect(self, desk: Desk) -> None:
        """A load is low, medium or high. In each round each idle node gets one job."""
        noise = random.Random(16)
        nodes = [f"n{number}" for number in range(20)]
        for node_id in nodes:
            desk.node(node_id)
        for base in (2, 15, 29, 50, 90):
            for node_id in nodes:
                cpu = max(0, base + noise.uniform(-4, 4))
                desk.beat(node_id, load_json=json.dumps({"cpu": cpu}))
            assert sorted(chosen_nodes(desk, len(nodes))) == sorted(nodes)

    def test_the_levels_of_the_load_are_thirds_of_100_percent(self, desk: Desk) -> None:
        for node_id, cpu in (("a", 33), ("b", 34), ("c", 66), ("d", 67), ("e", 0.9), ("f", 100)):
            desk.node(node_id)
            desk.beat(node_id, load_json=json.dumps({"cpu": cpu}))
        order = "".join(desk.dispatch().node_id for _ in range(6))
        assert [set(order[at : at + 2]) for at in (0, 2, 4)] == [set("ae"), set("bc"), set("df")]

    def test_of_equal_loads_the_node_that_was_chosen_longest_ago_is_first(self, desk: Desk) -> None:
        for node_id in "abc":
            desk.node(node_id)
        order = chosen_nodes(desk, 6)
        assert order[:3] == order[3:]
        assert set(order) == set("abc")

    @pytest.mark.parametrize("turns", [2**38, 2**39, 3 * 2**38, 2**40, 2**52 + 2**38])
    def test_the_order_holds_when_the_counter_of_turns_wraps(
        self, desk: Desk, client: redis.Redis, turns: int
    ) -> None:
        """The counter passes ``turns`` half-way.

        One node joins before this, and others after it.
        """
        desk.node("a")
        client.set(desk.service.keys("turn"), turns - 20)
        for node_id in "bcd":
            desk.node(node_id)
        order = chosen_nodes(desk, 40)
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

    def test_a_session_moves_when_its_node_is_full(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.node("b", 1)
        first = desk.dispatch(session_id="u1")
        moved = desk.dispatch(session_id="u1")
        assert moved.node_id != first.node_id
        desk.complete(first)
        desk.complete(moved)
        assert desk.dispatch(session_id="u1").node_id == moved.node_id

    def test_a_session_keeps_its_pool_when_its_node_is_full(self, desk: Desk) -> None:
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

    def test_affinity_require_waits_for_a_live_node(self, desk: Desk) -> None:
        desk.node("a", 1)
        desk.node("b", 1)
        first = desk.dispatch(session_id="u1", affinity="require")
        with pytest.raises(NoAvailableNode):
            desk.dispatch(session_id="u1", affinity="require")
        desk.beat(first.node_id, online=False)
        other = "b" if first.node_id == "a" else "a"
        assert desk.dispatch(session_id="u1", affinity="require").node_id == other


class TestCapabilities:
    def test_a_rare_capability_is_found_in_a_large_pool(self, desk: Desk) -> None:
        for number in range(30):
            desk.node(f"n{number}", 4)
        desk.node("special", 1, caps=["whisper"])
        assert desk.dispatch(capabilities=["whisper"]).node_id == "special"
        with pytest.raises(NoAvailableNode):
            desk.dispatch(capabilities=["whisper"])

    def test_a_node_needs_all_the_capabilities(self, desk: Desk) -> None:
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

    def test_auto_finds_the_pair_in_both_directions(self, desk: Desk) -> None:
        desk.node("a", pools=[{"id": "mt", "langs": [["zh", "en"]]}])
        for pair in ("zh:en", "en:zh"):
            assert desk.dispatch(pool=None, src_lang="auto", tgt_lang=pair).pool == "mt"

    def test_a_program_maps_a_pair_to_pools(self, desk: Desk) -> None:
        desk.node("a")
        pair = {"pool": None, "src_lang": "zh", "tgt_lang": "en"}
        with pytest.raises(NoPoolForLangPair):
            desk.dispatch(**pair)
        desk.service.set_language_pools("zh", "en", ["asr"])
        assert desk.dispatch(**pair).node_id == "a"
        desk.service.set_language_pools("zh", "en", [])
        with pytest.raises(NoPoolForLangPair):
            desk.dispatch(**pair)

    def test_a_node_leaves_the_indexes_of_what_it_no_longer_offers(self, desk: Desk) -> None:
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
