"""A message that arrives again does not start a job that the node already holds."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from node_agent.held_job import HeldJob
from node_agent.liveness import Liveness
from node_agent.slots import Slots

from ..support.desk import Desk
from ..support.fleet import FAST, Fleet, checked, wait_for
from ..support.proxy import Proxy
from ..support.server import Server

POOLS = ("prefork", "threads")
UNACKED, ACKED = "minsched.unacked.n1", "minsched.acked.n1"
QUEUE, TAKEN = "minsched.node.n1", "minsched.taken.n1"


@pytest.fixture
def fleet(server: Server) -> Iterator[Fleet]:
    with checked(Fleet(server, **FAST)) as fleet:
        yield fleet


def messages(client: redis.Redis) -> dict[str, str]:
    """The unacknowledged messages of n1 in the format of a queue, by delivery tag."""
    entries = client.hgetall(UNACKED)
    return {tag: json.dumps(json.loads(entry)[0]) for tag, entry in entries.items()}


def copies_logged(fleet: Fleet) -> int:
    return fleet.log("n1").count("came again")


@pytest.mark.parametrize("pool", POOLS)
def test_a_copy_of_a_message_starts_no_job(fleet: Fleet, client: redis.Redis, pool: str) -> None:
    fleet.start_ready("n1", "-P", pool, "-c", "1", slots=3)
    running = fleet.send("hold_late", "running")
    wait_for(lambda: client.llen("test:began:running") == 1)
    reserved = fleet.send("note", "reserved")
    wait_for(lambda: len(messages(client)) == 2)
    for _ in range(2):
        client.lpush(QUEUE, *messages(client).values())
    wait_for(lambda: copies_logged(fleet) == 4)
    assert not client.exists(ACKED)  # a copy does not acknowledge the message of a late task
    client.lpush("test:release:running", "go", "go")
    assert reserved.get(timeout=20) == "reserved"
    running.get(timeout=20)
    wait_for(lambda: not client.exists(UNACKED, ACKED))
    assert client.llen("test:began:running") == client.llen("test:began:reserved") == 1


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("location", ["queue", "taken"])
def test_a_failover_that_lost_the_claim_does_not_start_the_job_again(
    fleet: Fleet,
    client: redis.Redis,
    cut_connections: Callable[[], None],
    tmp_path: Path,
    pool: str,
    location: str,
) -> None:
    """The new master does not know that the node took the message."""
    fleet.start_ready("n1", "-P", pool, "-c", "1", slots=3)
    path = tmp_path / "go"
    result = fleet.send("works", str(path), ignore_result=True)
    wait_for((tmp_path / "go.began").exists)
    [(tag, raw)] = messages(client).items()
    job = fleet.job(result.id)
    assert job is not None
    with client.pipeline() as pipe:
        pipe.delete(UNACKED, "minsched.unacked_index.n1", ACKED)
        pipe.lpush(QUEUE if location == "queue" else TAKEN, raw)
        pipe.hset(f"scheduler:job:{job.job_id}", "status", "dispatched")
        pipe.hdel(f"scheduler:job:{job.job_id}", "claim", "tag", "started_ts")
        pipe.execute()
    cut_connections()
    # If the node notes the message before its connection breaks, the message does not arrive again.
    wait_for(lambda: client.hexists(UNACKED, tag) and not client.exists(QUEUE, TAKEN))
    assert client.sismember(ACKED, tag)  # if the node dies now, the job is reported
    path.touch()
    wait_for(lambda: (job := fleet.job(result.id)) and job.status == "finished")
    wait_for(lambda: not client.exists(UNACKED, ACKED))
    assert (tmp_path / "go.began").read_text() == "celery@n1\n"


def test_jobs_are_placed_although_the_connection_breaks_twice_while_they_are_handed_back(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Each job with a moved message is placed. No job counts a rescue."""
    proxy = Proxy(server.port)
    fleet = Fleet(server, broker=proxy.url)

    def job(result: Any) -> Any:
        return fleet.job(result.id)

    try:
        fleet.start_ready("n1", "-P", "threads", "-c", "1", slots=31)
        path = tmp_path / "go"
        fleet.send("works", str(path), ignore_result=True)
        wait_for((tmp_path / "go.began").exists)
        results = [fleet.send("note", f"again{n}") for n in range(30)]
        wait_for(lambda: all(job(r).status == "running" for r in results))
        connected = fleet.log("n1").count("Connected to")
        proxy.delay = 0.004
        proxy.cut()
        wait_for(lambda: "Connection to broker lost" in fleet.log("n1"))
        proxy.mend()
        wait_for(lambda: len(client.keys("minsched.job.*")) > 3)
        tries = fleet.log("n1").count("Trying again in")
        proxy.cut()
        wait_for(lambda: fleet.log("n1").count("Trying again in") > tries)
        proxy.delay = 0
        proxy.mend()
        wait_for(lambda: fleet.log("n1").count("Connected to") > connected)
        wait_for(lambda: not client.keys("minsched.job.*"), "all jobs to be placed", patience=10)
        assert {job(r).rescues for r in results} == {0}
        path.touch()
        for n, result in enumerate(results):
            assert result.get(timeout=20) == f"again{n}"
        assert {client.llen(f"test:began:again{n}") for n in range(30)} == {1}
        fleet.wait_idle()
    finally:
        fleet.close()
        proxy.close()


def test_a_job_whose_message_a_rescuer_moved_runs_once(
    fleet: Fleet, client: redis.Redis, tmp_path: Path
) -> None:
    """The node was declared dead and came back before the rescue was complete."""
    fleet.start_ready("n1", "-P", "threads", "-c", "1", slots=2)
    path = tmp_path / "go"
    fleet.send("works", str(path), ignore_result=True)
    wait_for((tmp_path / "go.began").exists)
    moved = fleet.send("note", "moved")
    wait_for(lambda: len(messages(client)) == 2)
    job = fleet.job(moved.id)
    assert job is not None
    tag = str(client.hget(f"scheduler:job:{job.job_id}", "tag"))
    fleet.plugin.scheduler.park_messages([(job.job_id, messages(client)[tag], "", "n1", tag, "")])
    path.touch()
    assert moved.get(timeout=30) == "moved"
    assert client.llen("test:began:moved") == 1
    wait_for(lambda: not client.exists(UNACKED, ACKED))


def test_a_lost_connection_ends_the_node_s_requests_for_a_slot(
    fleet: Fleet, client: redis.Redis, cut_connections: Callable[[], None]
) -> None:
    """Redis lost the job's record and the node is full, so the node repeats its request."""
    fleet.start_ready("n1", "-P", "threads", "-c", "2", slots=2)
    path = str(fleet.log_path("go"))
    fleet.send("works", path, ignore_result=True)
    fleet.send("works", path, ignore_result=True)
    wait_for(lambda: client.scard(ACKED) == 2)
    unplaced = fleet.send("note", "unplaced")
    job = fleet.job(unplaced.id)
    assert job is not None
    raw = client.lindex(f"minsched.job.{job.job_id}", 0)
    fleet.plugin.scheduler.revoke_tasks([unplaced.id], "n1")
    wait_for(lambda: client.exists(f"test:revoked:{unplaced.id}"))
    wait_for(lambda: client.hlen(UNACKED) == 2)
    client.delete(f"scheduler:job:{job.job_id}")
    client.lpush(
        QUEUE, raw.replace(unplaced.id, str(uuid.uuid4()))
    )  # the id of a task that is not revoked
    wait_for(lambda: client.hlen(UNACKED) == 3)
    cut_connections()
    wait_for(lambda: client.hget(f"scheduler:job:{job.job_id}", "status") == "waiting")
    time.sleep(0.7)  # longer than the pause between two requests of the node
    Path(path).touch()
    wait_for(lambda: client.llen("test:began:unplaced"), patience=15)


def test_a_job_that_arrives_again_during_a_hand_back_stays_held(
    fleet: Fleet, client: redis.Redis
) -> None:
    """Redis does not know that the node is stuck. The worker recovers and takes the job."""
    scheduler = fleet.plugin.scheduler
    desk = Desk(scheduler)
    desk.node("n1", 12)
    desk.node("n2", 1, pools=["other"])
    results = [fleet.send("note", str(n)) for n in range(12)]
    jobs = [fleet.job(result.id).job_id for result in results]  # type: ignore[union-attr]
    desk.node("n1", 12, pools=["other"])
    desk.node("n2", 1)  # takes the oldest job
    slots = Slots(scheduler, "n1", lambda: 1)
    slots.held.update({job_id: HeldJob("tag", "first") for job_id in jobs})
    place, again = scheduler.place_jobs, HeldJob("tag", "again")

    def place_and_take(job_ids: list[str], **options: Any) -> list[str]:
        statuses = place(job_ids, **options)
        for job_id in job_ids:  # as NodeQoS.append does
            slots.held.setdefault(job_id, again)
        return statuses

    scheduler.place_jobs = place_and_take  # type: ignore[method-assign,assignment]
    Liveness(fleet.plugin, slots, None, lambda: False).hand_back()  # type: ignore[arg-type]
    assert list(slots.held.values()) == [again] * 12
    assert client.llen("minsched.node.n2") == 1
    assert desk.status(jobs[0]) == "dispatched"
    desk.service.redis.flushdb()


@pytest.mark.parametrize("fault", ["unwritten", "no answer"])
def test_the_acknowledgement_of_a_task_that_does_not_begin_is_withdrawn(
    desk: Desk, client: redis.Redis, fault: str
) -> None:
    """No process of the pool got the task, or the reply of Redis was lost."""
    desk.node("n1", instance="a process")
    term = int(client.hget("scheduler:node:info:n1", "term") or 0)
    client.hset(UNACKED, "tag", "[{}]")
    slots = Slots(desk.service, "n1", lambda: term)
    job = slots.held["job"] = HeldJob("tag", "claim", term=term, is_begun=True)
    if fault == "unwritten":
        assert slots.acknowledge("job")
        slots.withdraw_acknowledgements()
        assert client.sismember(ACKED, "tag")  # the task counts as begun
        slots.mark_not_started("job")
    else:
        note = desk.service.acknowledge_job

        def lose_reply(*args: Any) -> bool:
            note(*args)
            raise redis.TimeoutError

        desk.service.acknowledge_job = lose_reply  # type: ignore[method-assign]
        assert not slots.acknowledge("job")
    assert client.sismember(ACKED, "tag")
    assert not job.is_begun
    slots.withdraw_acknowledgements()
    assert not client.exists(ACKED)
    client.delete(UNACKED)


def test_a_job_either_begins_or_is_dropped() -> None:
    """A thread of the pool begins jobs while the event loop drops the jobs that have not begun."""
    slots = Slots(None, "n1", lambda: 1)  # type: ignore[arg-type]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            slots.held.update({str(n): HeldJob("tag", "claim", term=1) for n in range(40)})
            begun: list[str] = []
            start = threading.Barrier(2)

            def begin(begun: list[str] = begun, start: threading.Barrier = start) -> None:
                start.wait()
                begun += [str(n) for n in range(40) if slots.begin(str(n), "claim")]

            thread = threading.Thread(target=begin)
            thread.start()
            start.wait()
            slots.drop_unstarted()
            thread.join()
            assert not slots.dropped & set(begun)
            slots.held.clear()
            slots.dropped.clear()
    finally:
        sys.setswitchinterval(interval)
