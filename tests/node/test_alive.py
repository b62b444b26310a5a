"""A node is online while the event loop of its worker turns and its queue is consumed."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

import redis

from celery_minsched.consistency.checker import Checker

from ..support.fleet import FAST, Fleet, wait_for
from ..support.proxy import Proxy
from ..support.server import Server

#: With FAST a worker is stuck after these seconds: node_ttl and two seconds.
STUCK = 4


def state(fleet: Fleet, node_id: str) -> str:
    client, keys = fleet.views.redis, fleet.views.keys
    return str((client.hget(keys("node_info", node_id), "state") or b"").decode())


def kinds(fleet: Fleet, node_id: str) -> list[str]:
    """The kinds of the node's events, in order."""
    events = fleet.views.events(limit=1000)
    return [event.kind for event in events if event.fields.get("node") == node_id]


def open_gate(fifo: str) -> None:
    """Release the workers that hang at the FIFO."""
    with contextlib.suppress(OSError):  # no worker hangs
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def to(node_id: str) -> dict[str, str]:
    return {"preferred_node": node_id}


def test_a_hung_worker_hands_back_its_jobs_and_recovers(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    fleet, gate = Fleet(server, **FAST), str(tmp_path / "gate")
    os.mkfifo(gate)
    try:
        fleet.start("fork", "-P", "prefork", "-c", "1", slots=3)
        fleet.start("thread", "-P", "threads", "-c", "1", slots=3)
        fleet.start("mute", "-P", "threads", slots=3)
        fleet.start("safe", "-P", "threads", slots=12)
        hung = ["fork", "thread", "mute"]
        fleet.wait_online(*hung, "safe")
        running = [fleet.send("hold", f"held-{name}", minsched=to(name)) for name in hung[:2]]
        inside = [fleet.send("note", f"inside-{name}", minsched=to(name)) for name in hung[:2]]
        wait_for(lambda: all(fleet.job(r.id).status == "running" for r in [*running, *inside]))  # type: ignore[union-attr]
        for name in hung[:2]:  # one job runs, and one waits in the worker's memory
            fleet.control(name, "hang", fifo=gate)
        fleet.control("mute", "hang_interpreter", fifo=gate)
        wait_for(lambda: client.llen("test:hung") == len(hung), "the workers to hang")
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
        assert "sends no report and does not compute" in fleet.log("mute")
        for name in hung[:2]:
            client.lpush(f"test:release:held-{name}", "go")
        open_gate(gate)
        fleet.wait_online(*hung)
        for result in running:
            result.get(timeout=20)
        for name in hung:
            assert kinds(fleet, name)[-2:] == ["node_stuck", "node_recovered"]
            task = fleet.send("where_am_i", minsched=to(name))
            assert task.get(timeout=20)["hostname"] == f"celery@{name}"
        assert all(len(client.lrange(f"test:began:{name}", 0, -1)) == 1 for name in names)
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        open_gate(gate)
        fleet.close()


def test_a_task_that_holds_the_loop_or_the_interpreter_does_not_make_its_node_stuck(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server, **FAST)
    try:
        fleet.start("solo", "-P", "solo", slots=2)
        fleet.start("hog", "-P", "threads", slots=2)
        fleet.wait_online("solo", "hog")
        results = [
            fleet.send("note", "long", STUCK + 1.5, minsched=to("solo")),
            fleet.send("hogs", STUCK + 1.5, minsched=to("hog")),
        ]
        wait_for(lambda: client.exists("test:began:long", "test:hogging") == 2)
        # The messages for the second slots stay in the queues of the nodes.
        results += [fleet.send("where_am_i", minsched=to(name)) for name in ("solo", "hog")]
        for result in results:
            result.get(timeout=30)
        for name in ("solo", "hog"):
            assert kinds(fleet, name) == ["node_joined"]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_a_node_whose_consumer_is_cancelled_is_drained(server: Server, client: redis.Redis) -> None:
    fleet = Fleet(server, **FAST)
    try:
        fleet.start("cancelled", "-P", "threads", "-c", "1", slots=3)
        fleet.start("other", "-P", "threads", slots=4)
        fleet.wait_online("cancelled", "other")
        running = fleet.send("hold", "held", minsched=to("cancelled"))
        wait_for(lambda: client.exists("test:began:held"))
        inside = fleet.send("note", "inside", minsched=to("cancelled"))
        wait_for(lambda: fleet.job(inside.id).status == "running")  # type: ignore[union-attr]
        fleet.control("cancelled", "cancel_consumer", queue="minsched.node.cancelled")
        results = [
            inside,
            *(fleet.send("note", f"n{n}", minsched=to("cancelled")) for n in range(3)),
        ]
        for result in results:
            result.get(timeout=20)
        for name in ("inside", "n0", "n1", "n2"):
            assert client.lrange(f"test:began:{name}", 0, -1) == ["celery@other"]
        wait_for(lambda: fleet.node("cancelled").draining)  # type: ignore[union-attr]
        client.lpush("test:release:held", "go")
        running.get(timeout=20)
        time.sleep(STUCK)
        assert kinds(fleet, "cancelled") == ["node_joined", "node_drained"]
        fleet.control("cancelled", "add_consumer", queue="minsched.node.cancelled")
        wait_for(lambda: not fleet.node("cancelled").draining)  # type: ignore[union-attr]
        task = fleet.send("where_am_i", minsched=to("cancelled"))
        assert task.get(timeout=20)["hostname"] == "celery@cancelled"
        fleet.control("cancelled", "cancel_consumer", queue="minsched.node.cancelled")
        wait_for(lambda: fleet.node("cancelled").draining)  # type: ignore[union-attr]
        assert fleet.stop("cancelled") == 0
        assert not fleet.node("cancelled").draining  # type: ignore[union-attr]
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def test_a_node_survives_silently_dropped_connections(server: Server) -> None:
    proxy = Proxy(server.port)
    celery = {"broker_transport_options": {"socket_timeout": 1}}
    far = Fleet(server, broker=proxy.url, celery=celery, **FAST)
    try:
        far.start_ready("far", "-P", "threads", slots=4)
        assert far.send("where_am_i").get(timeout=20)["hostname"] == "celery@far"
        far.wait_idle()  # Celery waits up to 120 s for the reply to a stored result
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
