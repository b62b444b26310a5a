"""A node is online while its worker works: its event loop turns, and it reads its queue."""

from __future__ import annotations

import random
import time

import redis

from celery_minsched.consistency.checker import Checker

from ..support.fleet import FAST, Fleet, wait_for
from ..support.proxy import Proxy
from ..support.server import Server

#: Seconds after which a worker is stuck, with FAST: node_ttl and two seconds.
STUCK = 4


def state(fleet: Fleet, node_id: str) -> str:
    client, keys = fleet.views.redis, fleet.views.keys
    return str((client.hget(keys("node_info", node_id), "state") or b"").decode())


def kinds(fleet: Fleet, node_id: str) -> list[str]:
    """What happened to the node."""
    events = fleet.views.events(limit=1000)
    return [event.kind for event in events if event.fields.get("node") == node_id]


def to(node_id: str) -> dict[str, str]:
    return {"preferred_node": node_id}


def test_a_hung_worker_gives_its_jobs_away_and_recovers(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server, **FAST)
    try:
        fleet.start("fork", "-P", "prefork", "-c", "1", slots=3)
        fleet.start("thread", "-P", "threads", "-c", "1", slots=3)
        fleet.start("mute", "-P", "threads", slots=3)
        fleet.start("safe", "-P", "threads", slots=12)
        hung = ["fork", "thread", "mute"]
        fleet.wait_online(*hung, "safe")
        held = [fleet.send("hold", f"held-{name}", minsched=to(name)) for name in hung[:2]]
        inside = [fleet.send("note", f"inside-{name}", minsched=to(name)) for name in hung[:2]]
        wait_for(lambda: all(fleet.job(r.id).status == "running" for r in [*held, *inside]))  # type: ignore[union-attr]
        for name in hung[:2]:  # one of its jobs runs, one is in its memory
            fleet.control(name, "hang", seconds=STUCK + 5)
        fleet.control("mute", "hang_interpreter", seconds=STUCK + 5)
        time.sleep(0.5)
        queued = [fleet.send("note", f"queued-{name}", minsched=to(name)) for name in hung]
        for name in hung:
            wait_for(lambda name=name: state(fleet, name) == "stuck", f"{name} to be stuck")
        for result in (*inside, *queued):
            result.get(timeout=20)
        names = [*(f"inside-{n}" for n in hung[:2]), *(f"queued-{n}" for n in hung)]
        for name in names:
            assert client.lrange(f"test:began:{name}", 0, -1) == ["celery@safe"], name
        assert all(not fleet.node(name).online for name in hung)  # type: ignore[union-attr]
        assert "takes no jobs and hands back" in fleet.log("thread")
        assert "says nothing and does not compute" in fleet.log("mute")
        for name in hung[:2]:
            client.lpush(f"test:release:held-{name}", "go")
        fleet.wait_online(*hung)
        for result in held:
            result.get(timeout=20)
        for name in hung:
            assert kinds(fleet, name)[-2:] == ["node_stuck", "node_recovered"]
            task = fleet.send("where_am_i", minsched=to(name))
            assert task.get(timeout=20)["hostname"] == f"celery@{name}"
        assert all(len(client.lrange(f"test:began:{name}", 0, -1)) == 1 for name in names)
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_a_task_that_holds_the_loop_or_the_interpreter_is_no_hang(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server, **FAST)
    try:
        fleet.start("solo", "-P", "solo", slots=2)
        fleet.start("hog", "-P", "threads", slots=2)
        fleet.wait_online("solo", "hog")
        results = [
            fleet.send("note", "long", STUCK + 3.0, minsched=to("solo")),
            fleet.send("hogs", STUCK + 3.0, minsched=to("hog")),
        ]
        wait_for(lambda: client.exists("test:began:long", "test:hogging") == 2)
        # Their second slots: these lie in the queues meanwhile.
        results += [fleet.send("where_am_i", minsched=to(name)) for name in ("solo", "hog")]
        for result in results:
            result.get(timeout=30)
        for name in ("solo", "hog"):
            assert kinds(fleet, name) == ["node_joined"]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_a_node_that_is_told_not_to_consume_is_drained(server: Server, client: redis.Redis) -> None:
    fleet = Fleet(server, **FAST)
    try:
        fleet.start("told", "-P", "threads", "-c", "1", slots=3)
        fleet.start("other", "-P", "threads", slots=4)
        fleet.wait_online("told", "other")
        held = fleet.send("hold", "held", minsched=to("told"))
        wait_for(lambda: client.exists("test:began:held"))
        inside = fleet.send("note", "inside", minsched=to("told"))
        wait_for(lambda: fleet.job(inside.id).status == "running")  # type: ignore[union-attr]
        fleet.control("told", "cancel_consumer", queue="minsched.node.told")
        results = [inside, *(fleet.send("note", f"n{n}", minsched=to("told")) for n in range(3))]
        for result in results:
            result.get(timeout=20)
        for name in ("inside", "n0", "n1", "n2"):
            assert client.lrange(f"test:began:{name}", 0, -1) == ["celery@other"]
        wait_for(lambda: fleet.node("told").draining)  # type: ignore[union-attr]
        client.lpush("test:release:held", "go")
        held.get(timeout=20)
        time.sleep(STUCK)
        assert kinds(fleet, "told") == ["node_joined", "node_drained"]
        fleet.control("told", "add_consumer", queue="minsched.node.told")
        wait_for(lambda: not fleet.node("told").draining)  # type: ignore[union-attr]
        task = fleet.send("where_am_i", minsched=to("told"))
        assert task.get(timeout=20)["hostname"] == "celery@told"
        fleet.control("told", "cancel_consumer", queue="minsched.node.told")
        wait_for(lambda: fleet.node("told").draining)  # type: ignore[union-attr]
        assert fleet.stop("told") == 0
        assert not fleet.node("told").draining  # type: ignore[union-attr]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_flows_that_are_lost_in_silence_are_no_death(server: Server) -> None:
    proxy = Proxy(server.port)
    celery = {"broker_transport_options": {"socket_timeout": 1}}
    far = Fleet(server, broker=proxy.url, celery=celery, **FAST)
    try:
        far.start_ready("far", "-P", "threads", slots=4)
        assert far.send("where_am_i").get(timeout=20)["hostname"] == "celery@far"
        far.wait_idle()  # Celery waits 120 s for the answer to a stored result
        proxy.silence_some(random.Random(0), 1000)
        results = [far.send("where_am_i", ignore_result=True) for _ in range(4)]
        wait_for(lambda: all(far.job(r.id).status == "finished" for r in results), patience=60)  # type: ignore[union-attr]
        assert "node_died" not in kinds(far, "far")
        assert "Connection to broker lost" in far.log("far")
        far.wait_online("far")
        far.wait_idle()
        assert Checker(far.views).check() == []
    finally:
        far.close()
        proxy.close()
