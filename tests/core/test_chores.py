"""Each call of a heartbeat, a rescue or a revocation does a bounded part.

The next call follows at once.

The tests count commands: their number does not depend on the machine.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from celery_minsched.consistency.checker import Checker
from node_agent.requeue import park_messages, settle

from ..support.bounds import beat_until_done, count_commands
from ..support.desk import Desk, silence
from ..support.fleet import make_app, wait_for

MOST = 6000  # commands of a call


def plugin_of(desk: Desk) -> Any:
    """A plugin with the test's scheduler, for functions of node_agent."""
    return SimpleNamespace(scheduler=desk.service, app=make_app("redis://127.0.0.1:1/0"))


def fill(desk: Desk, node_id: str, number: int, **demand: Any) -> list[str]:
    """Make the node claim jobs. Their messages are in its queue."""
    demand = {"preferred_node": node_id, **demand}
    jobs = [
        place.job_id
        for start in range(0, number, 100)
        for place in desk.send_many([demand] * min(100, number - start))
    ]
    desk.beat(node_id, jobs=jobs)
    return jobs


def message_of(job_id: str) -> str:
    return json.dumps({"headers": {"id": job_id, "minsched": {"job_id": job_id, "demand": {}}}})


def wait_in_line(desk: Desk, number: int, **demand: Any) -> list[str]:
    """Jobs of tasks t0, t1, ... that wait while the only slot is taken."""
    return [
        place.job_id
        for start in range(0, number, 100)
        for place in desk.send_many(
            [{"task_id": f"t{n}", **demand} for n in range(start, min(start + 100, number))]
        )
    ]


def test_heartbeats_without_a_pause_mark_many_silent_nodes_dead(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("alive", pools=["other"])
    for number in range(120):
        desk.node(f"n{number}", 1)
        silence(desk, f"n{number}", 9000)
    assert beat_until_done(desk, client, "alive") <= 13  # each marks 50 dead and rescues 10
    assert client.zcount("scheduler:nodes", 0, "+inf") == 1
    assert not client.exists("scheduler:rescues")


def test_a_node_s_death_reads_a_bounded_number_of_jobs(desk: Desk, client: redis.Redis) -> None:
    desk.node("alive", pools=["other"])
    for node_id in ("a", "b", "c", "d"):
        desk.node(node_id, 700, concurrency=1)
        fill(desk, node_id, 650)
        silence(desk, node_id, 9000)
    costs = [count_commands(client, lambda: desk.beat("alive")) for _ in range(2)]
    assert max(costs) < 2 * 650 + 200
    assert client.zcount("scheduler:nodes", 0, "+inf") == 1


@pytest.mark.parametrize("are_moved", [True, False])
def test_a_dead_node_with_many_jobs_is_rescued_in_bounded_calls_without_a_pause(
    desk: Desk, client: redis.Redis, are_moved: bool
) -> None:
    desk.node("big", 350)
    jobs = fill(desk, "big", 350)
    silence(desk, "big", 9000)
    desk.service.declare_dead("big")
    desk.node("other", 200)
    for job_id in jobs if are_moved else ():
        client.lmove("minsched.node.big", f"minsched.job.{job_id}", "RIGHT", "LEFT")
    client.delete("minsched.node.big")

    calls: list[int] = []
    rescue_node = desk.service.rescue_node

    def counted(node_id: str, page: list[str]) -> Any:
        answers = []
        calls.append(count_commands(client, lambda: answers.append(rescue_node(node_id, page))))
        return answers[0]

    desk.service.rescue_node = counted  # type: ignore[method-assign, assignment]
    placed, lost, left = settle(plugin_of(desk), "big", reversed(jobs) if are_moved else ())
    assert (placed, lost, left) == ((350, 0, 0) if are_moved else (0, 350, 0))
    assert max(calls) < MOST
    assert len(calls) > 3
    assert not client.exists("scheduler:rescues")
    if are_moved:  # the oldest have the slots
        assert {desk.status(job_id) for job_id in jobs[:200]} == {"dispatched"}
        assert {desk.status(job_id) for job_id in jobs[200:]} == {"waiting"}


def test_a_program_without_a_queue_continues_rescues_without_a_pause(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("alive", pools=["other"])
    for node_id in ("a", "b", "c"):
        desk.node(node_id, 150)
        fill(desk, node_id, 150)
    for node_id in ("a", "b", "c"):
        client.delete(f"minsched.node.{node_id}")
        silence(desk, node_id, 9000)
    assert beat_until_done(desk, client, "alive") <= 6
    assert not client.exists("scheduler:rescues")
    assert client.zcard("scheduler:lost") == 0  # jobs without a task have no caller


def test_all_messages_of_a_node_move_page_by_page(desk: Desk, client: redis.Redis) -> None:
    desk.node("big", 450)
    jobs = fill(desk, "big", 450)
    client.delete("minsched.node.big")
    for job_id in jobs[:230]:
        client.lpush("minsched.node.big", message_of(job_id))
    for job_id in jobs[230:]:
        entry = json.dumps([json.loads(message_of(job_id)), "", ""])
        client.hset("minsched.unacked.big", job_id, entry)
        client.zadd("minsched.unacked_index.big", {job_id: 1})
    kept_jobs = set(jobs[5:450:5])
    client.config_resetstat()
    slots: Any = SimpleNamespace(
        stays=kept_jobs.__contains__, withdraw_acknowledgements=lambda: None
    )
    assert set(park_messages(plugin_of(desk), "big", slots)) == set(jobs) - kept_jobs
    stats = client.info("commandstats")
    assert "cmdstat_hgetall" not in stats
    assert stats["cmdstat_lrange"]["calls"] < 10
    assert sorted(park_messages(plugin_of(desk), "big")) == sorted(kept_jobs)
    assert not client.keys("minsched.*.big")
    client.delete(*client.keys("minsched.job.*"))
    desk.beat("big", jobs=jobs)


def test_a_node_with_messages_left_delays_the_rescue_of_no_other_node(
    desk: Desk, client: redis.Redis
) -> None:
    """An unreadable message without a job stays at its node."""
    desk.node("idle", pools=["other"])
    names = [f"n{number}" for number in range(70)]
    for number, name in enumerate(names):
        desk.node(name)
        desk.beat(name, online=False, jobs=[])
        client.zadd("scheduler:nodes", {name: number - 100})
        if number < 60:
            client.hset(f"minsched.unacked.{name}", "tag", "no message")
    client.hset("scheduler:heard", "since", 1)
    wait_for(lambda: desk.beat("idle") and client.zcard("scheduler:nodes") == 61)
    client.delete(*(f"minsched.unacked.{name}" for name in names))
    wait_for(lambda: desk.beat("idle") and client.zcard("scheduler:nodes") == 1)


def test_a_stopping_node_checks_few_of_many_acknowledged_messages(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    desk.node("idle")
    for number in range(2000):
        client.hset("minsched.unacked.n1", str(number), "[]")
        client.sadd("minsched.acked.n1", str(number))
    assert count_commands(client, lambda: desk.beat("n1", online=False, jobs=[])) < 300
    assert client.zcard("scheduler:rescues") == 1  # a node that reads messages checks them
    client.delete("minsched.unacked.n1", "minsched.acked.n1")
    beat_until_done(desk, client, "idle")
    assert not client.exists("scheduler:rescues")


def test_a_heartbeat_returns_no_more_expired_jobs_than_the_node_reads(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    wait_in_line(desk, 250, expires_ts=10)
    assert desk.beat("n1").next_due_ms == 0
    assert client.llen("minsched.node.n1") == 60  # in one call
    for _ in range(2):
        assert 0 < desk.beat("n1").next_due_ms < 1000  # the next heartbeat is due soon
        assert client.llen("minsched.node.n1") == 100
    for left in (90, 30, 0):
        client.delete("minsched.node.n1")
        assert (desk.beat("n1").next_due_ms != -1) == bool(left)
        assert client.zcard("scheduler:expiring") == left
    assert client.hget("scheduler:counts", "failed") == "250"
    client.delete("minsched.node.n1")


def test_revoked_tasks_leave_their_line_at_once_and_go_to_nodes_as_the_nodes_read(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    desk.node("n2", pools=["other"])
    desk.dispatch()
    jobs = wait_in_line(desk, 250)
    tasks = [f"t{n}" for n in range(250)]
    revoked = [(desk.service.revoke_tasks(tasks[at : at + 100], "n1")) for at in range(0, 250, 100)]
    assert revoked == [100, 100, 50]
    assert desk.views.lines() == []
    assert client.llen("minsched.node.n1") == 100
    assert Checker(desk.views).check() == []
    # Another node finds the jobs revoked.
    cost = count_commands(
        client, lambda: revoked.append(desk.service.revoke_tasks(tasks[:100], "n2"))
    )
    assert (revoked[3], cost) == (0, 204)  # two for each task, and two for the call
    assert desk.beat("n2").next_due_ms == 0
    desk.beat("n2")
    assert client.llen("minsched.node.n2") == 100
    client.delete("minsched.node.n1")
    desk.beat("n1")
    assert client.llen("minsched.node.n1") == 50
    assert not client.exists("scheduler:expiring")
    assert {client.hget(f"scheduler:job:{job_id}", "reason") for job_id in jobs} == {"revoked"}
    assert client.hget("scheduler:counts", "failed") == "250"
    client.delete("minsched.node.n1", "minsched.node.n2")


def test_large_messages_of_revoked_tasks_move_in_several_calls(
    desk: Desk, client: redis.Redis
) -> None:
    """Lua copies each message that it moves."""
    desk.node("n1", 1, ["other"])
    for number in range(30):
        desk.park("x" * 300_000, pool="other", capabilities=["none"], task_id=f"t{number}")
    assert desk.service.revoke_tasks([f"t{number}" for number in range(30)], "n1") == 30
    assert 0 < client.llen("minsched.node.n1") < 20
    assert desk.views.lines() == []
    beat_until_done(desk, client, "n1")
    assert client.llen("minsched.node.n1") == 30
    client.delete("minsched.node.n1")
