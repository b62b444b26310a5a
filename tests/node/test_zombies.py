"""Nodes that were declared dead and come back after a SIGSTOP or a network failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from celery.result import AsyncResult

from celery_minsched import NodeIdInUse

from ..support.fixtures import module_client, module_server
from ..support.fleet import FAST, Fleet, checked, wait_for
from ..support.proxy import Proxy
from ..support.server import Server, milliseconds

#: The test stops all processes of "group", the agent process of "agent", and the network of "net".
ZOMBIES = ("group", "agent", "net")
HEARTBEAT, SLACK = 300, 2000  # ms

server, client = module_server, module_client


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.release()
    proxy.mend()
    proxy.close()


@pytest.fixture(scope="module")
def fleet(server: Server) -> Iterator[Fleet]:
    with checked(Fleet(server, **FAST)) as fleet:
        fleet.start_ready("safe", "-P", "threads", slots=12)
        yield fleet


@pytest.fixture(scope="module")
def far(server: Server, proxy: Proxy) -> Iterator[Fleet]:
    """Nodes that connect to the server through the proxy."""
    fleet = Fleet(server, broker=proxy.url, **FAST)
    yield fleet
    fleet.close()


@dataclass
class Return:
    """The jobs of the zombies that are back."""

    at: int  # time at which the zombies were resumed, ms of the server's clock
    results: dict[str, AsyncResult] = field(default_factory=dict)


def has_begun(client: redis.Redis, task_name: str, node_id: str) -> bool:
    return f"celery@{node_id}" in client.lrange(f"test:began:{task_name}", 0, -1)


@pytest.fixture(scope="module")
def back(fleet: Fleet, far: Fleet, proxy: Proxy, client: redis.Redis) -> Return:
    """Each zombie had a running job and two reserved jobs.

    Each was silent for longer than node_ttl, and "safe" got all three jobs. The zombies have been
    resumed.
    """
    fleet.start("group", "-P", "prefork", "-c", "1", slots=3)
    fleet.start("agent", "-P", "prefork", "-c", "1", slots=3)
    far.start("net", "-P", "threads", "-c", "1", slots=3)
    fleet.wait_online(*ZOMBIES)
    results = {}
    for name in ZOMBIES:
        jobs = {"running": "asks_late", "late": "note_late", "early": "note"}
        for kind, task in jobs.items():
            demand = {"preferred_node": name}
            results[f"{kind}-{name}"] = fleet.send(task, f"{kind}-{name}", minsched=demand)
            if kind == "running":
                wait_for(lambda name=name: has_begun(client, f"running-{name}", name))
    wait_for(lambda: all(fleet.job(r.id).status == "running" for r in results.values()))  # type: ignore[union-attr]

    fleet.kill_all("group", signal.SIGSTOP)
    fleet.kill("agent", signal.SIGSTOP)
    proxy.hold()
    wait_for(lambda: all(has_begun(client, kind, "safe") for kind in results))
    at = milliseconds(client)
    fleet.kill_all("group", signal.SIGCONT)
    fleet.kill("agent", signal.SIGCONT)
    proxy.release()
    return Return(at, results)


@pytest.fixture(scope="module")
def ending(client: redis.Redis, back: Return) -> Return:
    """The running jobs end, at the zombies and at "safe"."""
    for name in ZOMBIES:
        client.lpush(f"test:release:running-{name}", "go", "go")
    return back


def test_a_zombie_is_online_again_within_one_heartbeat(
    fleet: Fleet, client: redis.Redis, back: Return
) -> None:
    fleet.wait_online(*ZOMBIES)
    for name in ZOMBIES:
        assert fleet.node(name).last_heartbeat_ts - back.at < HEARTBEAT + SLACK  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ZOMBIES)
def test_a_completion_by_a_zombie_is_refused(
    fleet: Fleet, far: Fleet, client: redis.Redis, ending: Return, name: str
) -> None:
    result = ending.results[f"running-{name}"]
    result.get(timeout=20)
    both = sorted([f"celery@{name}", "celery@safe"])
    wait_for(lambda: sorted(client.lrange(f"test:ended:running-{name}", 0, -1)) == both)
    job = wait_for(lambda: (job := fleet.job(result.id)) and job.status == "finished" and job)
    assert job.node_id == "safe"
    log_of = far.log if name == "net" else fleet.log
    wait_for(lambda: f"belongs to node 'safe', not to '{name}'" in log_of(name))


@pytest.mark.parametrize("name", ZOMBIES)
def test_a_task_can_ask_whether_its_job_is_still_its_own(
    client: redis.Redis, ending: Return, name: str
) -> None:
    def answers() -> list[str]:
        return sorted(client.lrange(f"test:mine:running-{name}", 0, -1))

    assert wait_for(lambda: len(answers()) == 2 and answers()) == sorted(
        [f"celery@{name} False", "celery@safe True"]
    )


@pytest.mark.parametrize("name", ZOMBIES)
def test_a_zombie_drops_the_jobs_that_it_has_not_begun(
    fleet: Fleet, client: redis.Redis, ending: Return, name: str
) -> None:
    demand = {"preferred_node": name, "affinity": "require"}
    next_job = fleet.send("where_am_i", minsched=demand)  # runs after the reserved jobs
    assert next_job.get(timeout=20)["hostname"] == f"celery@{name}"
    for what in (f"late-{name}", f"early-{name}"):
        assert ending.results[what].get(timeout=20) == what
        assert client.lrange(f"test:began:{what}", 0, -1) == ["celery@safe"]
    # A job that the node claims again is reserved until Redis replies.
    worker = f"celery@{name}"
    wait_for(
        lambda: fleet.app.control.inspect([worker], timeout=10).reserved() == {worker: []},
        "nothing to be reserved",
    )
    wait_for(lambda: not client.exists(f"minsched.unacked.{name}", f"minsched.acked.{name}"))


@pytest.mark.parametrize("requeue", [False, True])
def test_a_task_survives_the_connection_of_its_message(
    fleet: Fleet, far: Fleet, proxy: Proxy, back: Return, tmp_path: Path, requeue: bool
) -> None:
    """A new connection acknowledges or requeues the message."""
    path = tmp_path / "go"
    demand = {"preferred_node": "net", "affinity": "require"}
    job = fleet.send("hold_by_file", str(path), requeue, minsched=demand, ignore_result=True)
    wait_for(lambda: fleet.job(job.id).status == "running")  # type: ignore[union-attr]
    connections = far.log("net").count("Connected to")
    proxy.cut()
    wait_for(lambda: "Trying again in" in far.log("net").rpartition("Connected to")[2])
    proxy.mend()
    wait_for(lambda: far.log("net").count("Connected to") > connections)
    path.touch()
    view = wait_for(lambda: (j := fleet.job(job.id)) and j.status == "finished" and j)
    assert view.node_id == "net"
    assert (tmp_path / "go.again").exists() == requeue
    with fleet.server.client() as client:
        wait_for(lambda: not client.exists("minsched.unacked.net", "minsched.acked.net"))


def test_a_node_serves_again_after_its_network_is_mended(
    fleet: Fleet, far: Fleet, proxy: Proxy, client: redis.Redis, back: Return
) -> None:
    result = fleet.send("asks_late", "cut", minsched={"preferred_node": "net"})
    wait_for(lambda: has_begun(client, "cut", "net"))
    proxy.cut()
    wait_for(lambda: client.llen("test:began:cut") == 2)  # on another node, too
    proxy.mend()
    fleet.wait_online("net")
    client.lpush("test:release:cut", "go")
    result.get(timeout=20)
    job = wait_for(lambda: (job := fleet.job(result.id)) and job.status == "finished" and job)
    assert job.node_id != "net"
    demand = {"preferred_node": "net", "affinity": "require"}
    wait_for(
        lambda: (
            fleet.send("where_am_i", minsched=demand).get(timeout=20)["hostname"] == "celery@net"
        )
    )
    wait_for(lambda: fleet.node("net").current_jobs == 0)  # type: ignore[union-attr]


def test_a_node_that_an_operator_declared_dead_drops_its_reserved_jobs(
    fleet: Fleet, far: Fleet, proxy: Proxy, client: redis.Redis, back: Return
) -> None:
    demand = {"preferred_node": "net"}
    fleet.send("hold_late", "first", minsched=demand)
    wait_for(lambda: has_begun(client, "first", "net"))
    early = fleet.send("note", "declared", minsched=demand)
    wait_for(lambda: fleet.job(early.id).status == "running")  # type: ignore[union-attr]
    proxy.hold()

    def is_declared() -> bool:
        try:
            fleet.plugin.scheduler.declare_dead("net")
        except NodeIdInUse:
            return False
        return True

    wait_for(is_declared)
    assert early.get(timeout=20) == "declared"
    proxy.release()
    client.lpush("test:release:first", "go", "go")
    fleet.wait_online("net")
    fleet.wait_idle()
    [runner] = client.lrange("test:began:declared", 0, -1)
    assert runner != "celery@net"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_node_begins_no_early_task_that_it_cannot_acknowledge(
    fleet: Fleet, far: Fleet, proxy: Proxy, back: Return, tmp_path: Path, pool: str
) -> None:
    """The network breaks just before the task begins. Only another node runs it."""
    name = f"far-{pool}"
    far.start_ready(name, "-P", pool, "-c", "1", slots=3)
    demand = {"preferred_node": name}
    paths = [tmp_path / "first", tmp_path / "second"]
    _, second = (
        fleet.send("works", str(path), minsched=demand, ignore_result=True) for path in paths
    )
    wait_for((tmp_path / "first.began").exists)
    wait_for(lambda: fleet.job(second.id).status == "running")  # type: ignore[union-attr]
    proxy.hold()
    for path in paths:
        path.touch()
    began = tmp_path / "second.began"
    wait_for(lambda: began.exists() and (j := fleet.job(second.id)) and j.status == "finished")
    proxy.release()
    fleet.wait_online(name)
    fleet.wait_idle()
    [runner] = began.read_text().split()
    assert runner != f"celery@{name}"
    assert (tmp_path / "first.began").read_text() == f"celery@{name}\n"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_zombie_whose_id_another_process_has_taken_ends(
    fleet: Fleet, client: redis.Redis, pool: str
) -> None:
    """All keys with the node id belong to the other process now."""
    name = f"twin-{pool}"
    fleet.start_ready(name, "-P", pool, pool=name)
    result = fleet.send("hold_late", name, minsched={"pool": name})
    wait_for(lambda: client.llen(f"test:began:{name}") == 1)
    fleet.kill_all(name, signal.SIGSTOP)
    fleet.start(f"{name}-2", "--node-id", name, "-P", pool, pool=name)
    wait_for(lambda: client.llen(f"test:began:{name}") == 2)

    fleet.kill_all(name, signal.SIGCONT)
    assert fleet.processes[name].wait(60) == -signal.SIGKILL
    assert "another process took its place" in fleet.log(name)
    client.lpush(f"test:release:{name}", "go", "go")
    result.get(timeout=20)
    fleet.wait_idle()
    assert client.llen(f"test:began:{name}") == 2
    assert fleet.node(name).online  # type: ignore[union-attr]
    assert fleet.stop(f"{name}-2") == 0
