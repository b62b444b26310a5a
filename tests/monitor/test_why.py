"""The answers of ``why``, the events and the counters."""

from __future__ import annotations

import pytest
import redis

from celery_minsched import EmptyPool, NoAvailableNode, NodeIdInUse, UnknownNode
from celery_minsched.monitor.explain import Explanation, why

from ..support.desk import Desk, silence


def explain(desk: Desk, task_id: str = "t") -> Explanation:
    return why(desk.views, task_id)


def kinds(desk: Desk) -> list[str]:
    return [event.kind for event in desk.views.events()]


def job_of_silent_node(desk: Desk) -> str:
    """A job runs at node n1, whose heartbeats end. Returns its id."""
    desk.node("n1", 1)
    job = desk.dispatch(task_id="t")
    desk.service.claim_job(job.job_id, "n1")
    desk.node("n2", 1)
    silence(desk, "n1", 60_000)
    return job.job_id


class TestWhy:
    def test_why_explains_a_placed_job(self, desk: Desk) -> None:
        desk.node("n1", 2)
        desk.node("n2", 4)
        desk.dispatch()
        desk.dispatch(task_id="t")
        explanation = explain(desk)
        assert explanation.verdict == "placed"
        assert explanation.story[0] == (
            "It went to node n2, the least loaded node with a free slot in pool asr."
        )
        assert explanation.story[1] == (
            "2 nodes had a free slot. n2 had 0% of its slots taken and a low load. "
            "The next best, n1, had 50% of its slots taken and a low load."
        )

    def test_a_load_without_a_value_is_left_out(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.beat("n1", load_json='{"cpu": 12.5, "gpu": null}')
        desk.dispatch(task_id="t")
        assert explain(desk).candidates[0].load == {"cpu": 12.5}

    def test_why_explains_the_node_of_a_session(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.dispatch(session_id="u1")
        desk.complete(first)
        desk.dispatch(session_id="u1", task_id="t")
        assert "the last job of its session ran there" in explain(desk).story[0]
        desk.node("n2", 1)
        desk.dispatch(session_id="u1", task_id="t2")
        explanation = explain(desk, "t2")
        assert explanation.story[-2].startswith("Its session moved away from node n1, because")
        assert desk.views.counts("asr")["session_moves"] == 1

    def test_why_explains_a_job_that_waits_for_full_nodes(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.node("n2", 1, caps=["gpu"])
        desk.node("n3", 1, ["mt"])
        for _ in range(2):
            desk.dispatch()
        desk.park()
        desk.park(task_id="t", session_id="u1")
        explanation = explain(desk)
        assert (explanation.verdict, explanation.place_in_line) == ("waiting", 1)
        assert explanation.story[0].endswith(" s, 1 job ahead of it.")
        assert explanation.story[1:] == ["Both nodes that can run it (n1, n2) are full."]
        obstacles = {node.node_id: node.obstacle for node in explanation.candidates}
        assert obstacles == {"n1": "full", "n2": "full", "n3": "not in asr"}
        desk.park(task_id="g", capabilities=["gpu"])
        obstacles = {node.node_id: node.obstacle for node in explain(desk, "g").candidates}
        assert obstacles["n1"] == "lacks gpu"

    def test_why_counts_the_states_of_the_nodes(self, desk: Desk) -> None:
        for node_id in ("n1", "n2", "n3"):
            desk.node(node_id, 1)
        for _ in range(3):
            desk.dispatch()
        desk.park(task_id="t")
        assert explain(desk).story[1:] == ["All 3 nodes that can run it (n1, n2, n3) are full."]
        desk.service.drain_node("n2")
        assert explain(desk).story[1:] == [
            "Of the 3 nodes that can run it, 2 are full (n1, n3) and 1 is draining (n2)."
        ]

    def test_why_names_a_required_node(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.node("n2", 1)
        desk.dispatch(preferred_node="n1")
        desk.park(task_id="t", preferred_node="n1", affinity="require")
        assert explain(desk).story[1:] == [
            "It requires node n1.",
            "The only node that can run it (n1) is full.",
        ]

    def test_why_explains_an_impossible_job(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.park(task_id="t", capabilities=["gpu"])
        explanation = explain(desk)
        assert explanation.verdict == "impossible"
        assert explanation.story[1].startswith("No registered node can run it. Start a node")

    def test_why_explains_a_delayed_job(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.send(task_id="t", due_ts=desk.views.now() + 60_000)
        explanation = explain(desk)
        assert explanation.verdict == "delayed"
        assert explanation.story[0] in (
            "It is delayed and due in 59 s. Until then it holds no slot.",
            "It is delayed and due in 1 m 0 s. Until then it holds no slot.",
        )

    def test_why_explains_a_rescued_job(self, desk: Desk, client: redis.Redis) -> None:
        job_id = job_of_silent_node(desk)
        client.lpush(desk.service.keys("job_queue", job_id), "{}")
        desk.beat("n2", jobs=[])
        desk.service.rescue_node("n1", [job_id])
        explanation = explain(desk)
        assert (explanation.verdict, explanation.job and explanation.job.node_id) == (
            "placed",
            "n2",
        )
        assert explanation.story[0] == "It was rescued, because a node died while it ran the job."
        assert explanation.story[1].startswith("It was at node n1 before")
        assert {"node_died", "job_moved", "node_rescued"} <= set(kinds(desk))

    def test_why_explains_a_lost_job(self, desk: Desk) -> None:
        job_of_silent_node(desk)
        desk.beat("n2", jobs=[])
        explanation = explain(desk)
        assert explanation.verdict == "lost"
        assert explanation.story[-1] == "It is lost: its node was lost while it ran."
        assert "job_lost" in kinds(desk)

    def test_why_explains_an_ended_and_an_unknown_job(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.complete(desk.dispatch(task_id="t"), "failed")
        assert (explain(desk).verdict, explain(desk).story[-1]) == ("ended", "It failed.")
        assert explain(desk, "nobody").verdict == "unknown"


def test_a_paused_pool_takes_no_job_until_it_is_resumed(desk: Desk) -> None:
    desk.node("n1", 2, ["asr", "mt"])
    desk.service.pause_pool("asr")
    with pytest.raises(NoAvailableNode):
        desk.dispatch()
    job_id = desk.park(task_id="t")
    assert desk.status(job_id) == "waiting"
    assert explain(desk).candidates[0].obstacle == "in a paused pool"
    assert explain(desk).story[-1] == "The only node that can run it (n1) is in a paused pool."
    assert desk.dispatch(pool="mt").node_id == "n1"
    assert desk.views.pools()[0].paused
    desk.service.pause_pool("asr", paused=False)
    assert desk.status(job_id) == "dispatched"
    assert kinds(desk)[-1] == "pool_resumed"
    with pytest.raises(EmptyPool):
        desk.service.pause_pool("nowhere")


def test_a_node_with_heartbeats_is_not_declared_dead(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.node("n2", 1)
    desk.dispatch(preferred_node="n1")
    with pytest.raises(NodeIdInUse):
        desk.service.declare_dead("n1")
    with pytest.raises(UnknownNode):
        desk.service.declare_dead("nobody")
    desk.service.redis.hset("scheduler:node:info:n1", "instance", "\x1b]0;title\x07\u202e\n")
    with pytest.raises(NodeIdInUse) as caught:  # node-agent logs the text
        desk.service.declare_dead("n1")
    assert str(caught.value).replace("\n", "").isprintable()
    silence(desk, "n1", 3000)
    assert desk.service.declare_dead("n1") == 1
    assert desk.info("n1").state == "dead"


def test_events_record_the_changes_of_nodes(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.beat("n1", jobs=[])
    desk.service.drain_node("n1")
    desk.service.drain_node("n1")
    desk.service.drain_node("n1", draining=False)
    desk.beat("n1", online=False, jobs=[])
    desk.beat("n1", jobs=[])
    explanation = ["node_joined", "node_drained", "node_undrained", "node_left", "node_joined"]
    assert kinds(desk) == explanation
    assert desk.views.events()[0].fields == {"node": "n1"}
    last = desk.views.events()[-2].event_id
    assert [event.kind for event in desk.views.events(after=last)] == ["node_joined"]


def test_the_counters_count_dispatches_errors_and_ends(desk: Desk) -> None:
    desk.node("n1", 1)
    job = desk.dispatch()
    with pytest.raises(NoAvailableNode):
        desk.dispatch()
    with pytest.raises(EmptyPool):
        desk.dispatch(pool="nowhere")
    desk.park()
    desk.complete(job)
    counts = desk.views.counts("asr")
    assert (counts["least_loaded"], counts["first_free"], counts["busy"]) == (1, 1, 1)
    assert (counts["NO_AVAILABLE_NODE"], counts["finished"]) == (1, 1)
    assert sum(count for name, count in counts.items() if name.startswith("waited:")) == 1
    assert desk.views.counts()["EMPTY_POOL"] == 1


def test_the_load_of_a_pool_counts_taken_slots_and_waiting_jobs(desk: Desk) -> None:
    desk.node("n1", 2)
    for _ in range(2):
        desk.dispatch()
    for _ in range(4):
        desk.park()
    [pool] = desk.views.pools()
    assert (pool.slots, pool.taken, pool.waiting, pool.load) == (2, 2, 4, 3.0)
    desk.beat("n1", online=False, jobs=[])
    assert desk.views.pools()[0].load == 4.0  # the jobs of a node that has left do not count
