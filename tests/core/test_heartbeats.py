"""The cost of a heartbeat for Redis: at rest, in a large fleet, and with many jobs."""

from __future__ import annotations

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NodeIdInUse
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.heartbeats import MOST_JOBS
from celery_minsched.core.settings import Settings

from ..support.bounds import count_commands
from ..support.desk import Desk, silence
from ..support.fleet import Fleet, checked, wait_for
from ..support.server import Server, milliseconds

BUSY, IDLE = '{"cpu": 30}', '{"cpu": 3}'  # both in the lowest load level


def test_a_heartbeat_at_rest_takes_few_commands(desk: Desk, client: redis.Redis) -> None:
    capabilities = [f"c{number}" for number in range(20)]
    desk.node("n1", pools=["asr", "tts"], caps=capabilities)
    desk.node("n2", pools=["other"])
    jobs = [desk.dispatch().job_id, desk.dispatch().job_id]
    desk.beat("n1", jobs=jobs)  # the jobs run
    for number in range(1, 4):
        for load in (BUSY, IDLE):
            assert (
                count_commands(
                    client,
                    lambda load=load: desk.beat(  # type: ignore[misc]
                        "n1", jobs=jobs, load_json=load, takes_at_once=True, rescues=True
                    ),
                )
                <= 20
            )
        desk.send(due_ts=milliseconds(client) + 60_000 * number)
        assert desk.beat("n2").next_due_ms > 0  # n2 is asked for a heartbeat, n1 is not
    assert desk.info("n1").load == {"cpu": 3}


def test_a_heartbeat_at_rest_moves_a_node_to_its_new_load_level(desk: Desk) -> None:
    for node_id in ("n1", "n2"):
        desk.node(node_id)
        desk.beat(node_id, jobs=[])
    desk.beat("n1", jobs=[], load_json='{"cpu": 90}')
    assert desk.dispatch().node_id == "n2"
    desk.beat("n1", jobs=[], load_json=IDLE)
    assert desk.dispatch().node_id == "n1"


def test_a_waiting_job_of_another_pool_leaves_full_nodes_at_rest(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", slots=1)
    running = desk.dispatch()
    desk.beat("n1", jobs=[running.job_id])
    desk.park()
    assert count_commands(client, lambda: desk.beat("n1", jobs=[running.job_id])) <= 16


def test_the_interval_grows_and_shrinks_with_the_fleet(client: redis.Redis) -> None:
    desk = Desk(MinimalSchedulerService(client, Settings(node_ttl=2, heartbeat_interval=0.2)))
    desk.node("n0")
    assert desk.beat("n0").interval == 0.2
    for number in range(1, 150):
        desk.node(f"n{number}")
    assert desk.beat("n0").interval == 0.3
    for number in range(150, 300):
        desk.node(f"n{number}")
    assert desk.beat("n0").interval == 0.5  # a quarter of node_ttl
    for number in range(120, 300):
        desk.beat(f"n{number}", online=False, jobs=[])
        silence(desk, f"n{number}", 2100)
    for _ in range(4):  # each heartbeat removes fifty nodes
        desk.beat("n0")
    assert desk.beat("n0").interval == 0.24
    assert Checker(desk.views).check() == []


def test_a_real_node_sends_fewer_heartbeats_while_its_fleet_is_large(
    server: Server, client: redis.Redis
) -> None:
    with checked(Fleet(server, node_ttl=20, heartbeat_interval=0.1, lease=20)) as fleet:
        fleet.start_ready("real", "-P", "threads")
        desk = Desk(fleet.plugin.scheduler)

        def interval() -> str | None:
            return client.hget("scheduler:node:info:real", "interval_ms")

        wait_for(lambda: interval() == "100")  # the setting
        for number in range(199):
            desk.node(f"n{number}", pools=["crowd"])
        wait_for(lambda: interval() == "400")
        heartbeat_times = [desk.info("real").last_heartbeat_ts]

        def gap() -> int:
            """The time between the last two heartbeats. A change may cause an early heartbeat."""
            if (last := desk.info("real").last_heartbeat_ts) != heartbeat_times[-1]:
                heartbeat_times.append(last)
            return heartbeat_times[-1] - heartbeat_times[-2] if len(heartbeat_times) > 2 else 0

        wait_for(lambda: gap() >= 390)
        assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@real"
        for number in range(199):
            desk.beat(f"n{number}", online=False, jobs=[])
            silence(desk, f"n{number}", 21_000)
        wait_for(lambda: interval() == "100")


def test_a_node_with_a_longer_interval_may_be_silent_for_longer(desk: Desk) -> None:
    desk.node("n1")
    desk.beat("n1", interval=2.0)
    silence(desk, "n1", 3000)  # two intervals of the setting
    with pytest.raises(NodeIdInUse):
        desk.service.declare_dead("n1")
    silence(desk, "n1", 1000)
    assert desk.service.declare_dead("n1") == 0


def take_many(desk: Desk, number: int) -> list[str]:
    """Dispatch jobs to node "n1", which takes them. Returns their ids in this order."""
    desk.node("n1", slots=number)
    jobs = []
    for start in range(0, number, 100):
        demands = [{"when_full": "error"}] * min(100, number - start)
        jobs += [job.job_id for job in desk.send_many(demands)]
    for _ in jobs:
        desk.take("n1")
    return jobs


def test_a_heartbeat_reports_many_jobs_in_pages(desk: Desk, client: redis.Redis) -> None:
    jobs = take_many(desk, 2 * MOST_JOBS + 50)
    desk.node("n2", pools=["other"])
    others = [desk.dispatch(pool="other").job_id for _ in range(2)]
    reported = [others[0], *jobs, others[1]]
    leases = desk.service.keys("node_jobs", "n1")
    client.zadd(leases, dict.fromkeys(jobs, 1))  # Redis was away for longer than the lease
    client.config_resetstat()
    answer = desk.beat("n1", jobs=reported)
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
    assert answer.not_yours == others
    assert answer.current_jobs == len(jobs)
    assert {desk.status(job_id) for job_id in jobs} == {"running"}


def test_leases_that_began_together_are_renewed_at_different_heartbeats(
    desk: Desk, client: redis.Redis
) -> None:
    jobs = take_many(desk, 80)
    desk.beat("n1", jobs=jobs)
    leases, lease_ms = desk.service.keys("node_jobs", "n1"), desk.service.settings.lease * 1000
    renewed = []
    for part in (0.8, 0.6, 0.4):
        now = milliseconds(client)
        client.zadd(leases, dict.fromkeys(jobs, now + part * lease_ms))
        desk.beat("n1", jobs=jobs)
        renewed.append(client.zcount(leases, now + 0.9 * lease_ms, "+inf"))
    assert renewed[0] == 0
    assert 0 < renewed[1] < len(jobs)
    assert renewed[2] == len(jobs)
