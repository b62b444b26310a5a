"""``why`` answers for each way in which a job can be where it is; events and counts, the rest."""

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


class TestWhy:
    def test_placed(self, desk: Desk) -> None:
        desk.node("n1", 2)
        desk.node("n2", 4)
        desk.dispatch()
        desk.dispatch(task_id="t")
        said = explain(desk)
        assert said.verdict == "placed"
        assert said.story[0] == "It went to node n2, the least loaded with a free slot in pool asr."
        assert said.story[1] == (
            "2 nodes were free then; n2 had 0% of its slots taken and a low load, "
            "the next best, n1, 50% of its slots taken and a low load."
        )

    def test_a_node_may_report_no_value(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.beat("n1", load_json='{"cpu": 12.5, "gpu": null}')
        desk.dispatch(task_id="t")
        assert explain(desk).candidates[0].load == {"cpu": 12.5}

    def test_sticky_and_moved(self, desk: Desk) -> None:
        desk.node("n1", 1)
        first = desk.dispatch(session_id="u1")
        desk.complete(first)
        desk.dispatch(session_id="u1", task_id="t")
        assert "where its session's last job was" in explain(desk).story[0]
        desk.node("n2", 1)
        desk.dispatch(session_id="u1", task_id="t2")
        said = explain(desk, "t2")
        assert said.story[-2].startswith("Its session moved: node n1, where it was, had no free")
        assert desk.views.counts("asr")["session_moves"] == 1

    def test_waiting_because_busy(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.node("n2", 1, caps=["gpu"])
        desk.node("n3", 1, ["mt"])
        for _ in range(2):
            desk.dispatch()
        desk.park()
        desk.park(task_id="t", session_id="u1")
        said = explain(desk)
        assert (said.verdict, said.place_in_line) == ("waiting", 1)
        assert "of the nodes that could do it 2 are full" in said.story[0]
        obstacles = {node.node_id: node.obstacle for node in said.candidates}
        assert obstacles == {"n1": "full", "n2": "full", "n3": "not in asr"}
        desk.park(task_id="g", capabilities=["gpu"])
        obstacles = {node.node_id: node.obstacle for node in explain(desk, "g").candidates}
        assert obstacles["n1"] == "lacks gpu"

    def test_impossible(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.park(task_id="t", capabilities=["gpu"])
        said = explain(desk)
        assert said.verdict == "impossible"
        assert "No registered node could ever do it" in said.story[0]

    def test_delayed(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.send(task_id="t", due_ts=desk.views.now() + 60_000)
        said = explain(desk)
        assert said.verdict == "delayed"
        assert said.story[0].startswith("It is delayed: due in 59.") or "60.0" in said.story[0]

    def test_rescued(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        job = desk.dispatch(task_id="t")
        desk.service.claim_job(job.job_id, "n1")
        desk.node("n2", 1)
        silence(desk, "n1", 60_000)
        client.hset(desk.service.keys("heard"), mapping={"since": 1, "last": desk.views.now()})
        client.lpush(desk.service.keys("job_queue", job.job_id), "{}")
        desk.beat("n2", jobs=[])
        desk.service.rescue_node("n1", [job.job_id])
        said = explain(desk)
        assert (said.verdict, said.job and said.job.node_id) == ("placed", "n2")
        assert said.story[0] == "It was rescued: a node died while it ran there."
        assert said.story[1].startswith("It was at node n1 before")
        assert {"node_died", "job_moved", "node_rescued"} <= set(kinds(desk))

    def test_lost(self, desk: Desk, client: redis.Redis) -> None:
        desk.node("n1", 1)
        job = desk.dispatch(task_id="t")
        desk.service.claim_job(job.job_id, "n1")
        desk.node("n2", 1)
        silence(desk, "n1", 60_000)
        client.hset(desk.service.keys("heard"), mapping={"since": 1, "last": desk.views.now()})
        desk.beat("n2", jobs=[])
        said = explain(desk)
        assert said.verdict == "lost"
        assert said.story[-1] == "It is lost: its node was lost while it ran."
        assert "job_lost" in kinds(desk)

    def test_ended_and_unknown(self, desk: Desk) -> None:
        desk.node("n1", 1)
        desk.complete(desk.dispatch(task_id="t"), "failed")
        assert (explain(desk).verdict, explain(desk).story[-1]) == ("ended", "It failed.")
        assert explain(desk, "nobody").verdict == "unknown"


def test_a_paused_pool_takes_no_job_until_it_goes_on(desk: Desk) -> None:
    desk.node("n1", 2, ["asr", "mt"])
    desk.service.pause_pool("asr")
    with pytest.raises(NoAvailableNode):
        desk.dispatch()
    job_id = desk.park(task_id="t")
    assert desk.status(job_id) == "waiting"
    assert explain(desk).candidates[0].obstacle == "its pool is paused"
    assert "0 are full, 1 in a paused pool, and" in explain(desk).story[-1]
    assert desk.dispatch(pool="mt").node_id == "n1"
    assert desk.views.pools()[0].paused
    desk.service.pause_pool("asr", paused=False)
    assert desk.status(job_id) == "dispatched"
    assert kinds(desk)[-1] == "pool_resumed"
    with pytest.raises(EmptyPool):
        desk.service.pause_pool("nowhere")


def test_a_node_is_declared_dead_only_when_it_is_silent(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.node("n2", 1)
    desk.dispatch(preferred_node="n1")
    with pytest.raises(NodeIdInUse):
        desk.service.declare_dead("n1")
    with pytest.raises(UnknownNode):
        desk.service.declare_dead("nobody")
    desk.service.redis.hset("scheduler:node:info:n1", "instance", "\x1b]0;title\x07\u202e\n")
    with pytest.raises(NodeIdInUse) as caught:  # node-agent logs it
        desk.service.declare_dead("n1")
    assert str(caught.value).replace("\n", "").isprintable()
    silence(desk, "n1", 3000)
    assert desk.service.declare_dead("n1") == 1
    assert desk.info("n1").state == "dead"


def test_events_say_what_happened_to_nodes(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.beat("n1", jobs=[])
    desk.service.drain_node("n1")
    desk.service.drain_node("n1")
    desk.service.drain_node("n1", draining=False)
    desk.beat("n1", online=False, jobs=[])
    desk.beat("n1", jobs=[])
    said = ["node_joined", "node_drained", "node_undrained", "node_left", "node_joined"]
    assert kinds(desk) == said
    assert desk.views.events()[0].fields == {"node": "n1"}
    last = desk.views.events()[-2].event_id
    assert [event.kind for event in desk.views.events(after=last)] == ["node_joined"]


def test_what_is_counted(desk: Desk) -> None:
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


def test_a_pool_s_load_is_what_to_scale_by(desk: Desk) -> None:
    desk.node("n1", 2)
    for _ in range(2):
        desk.dispatch()
    for _ in range(4):
        desk.park()
    [pool] = desk.views.pools()
    assert (pool.slots, pool.taken, pool.waiting, pool.load) == (2, 2, 4, 3.0)
    desk.beat("n1", online=False, jobs=[])
    assert desk.views.pools()[0].load == 4.0  # the two jobs of the node that left are not counted
