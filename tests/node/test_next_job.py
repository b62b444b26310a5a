"""The answer to a completion brings the node's next job, and no message travels back to Redis."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import redis

from ..support.fleet import Fleet, checked, stored, wait_for
from ..support.proxy import Proxy
from ..support.server import Server
from ..support.work import Work, start_work

NODES = {"prefork": "n1", "threads": "n2"}
MEGABYTE = 1_000_000


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """The nodes' network."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def fleet(server: Server, proxy: Proxy) -> Iterator[Fleet]:
    with checked(Fleet(server, broker=proxy.url, node_ttl=4.0, heartbeat_interval=0.5)) as fleet:
        start(fleet)
        warm_up(fleet)
        yield fleet


def start(fleet: Fleet) -> None:
    """Start a node of each pool, with one slot."""
    for pool, node_id in NODES.items():
        fleet.start(node_id, "-P", pool, slots=1)
    fleet.wait_online(*NODES.values())


def warm_up(fleet: Fleet) -> None:
    """Have the nodes open their connections, and the server load the scripts."""
    for node_id in NODES.values():
        stored(fleet.send("late", minsched=at(node_id)))
    fleet.wait_idle()


def at(node_id: str) -> dict[str, str]:
    return {"preferred_node": node_id, "affinity": "require"}


def lose_answers(fleet: Fleet, proxy: Proxy, task: str) -> list[tuple[Work, Work]]:
    """Let a job end at each node, and hold the answer, which brings the node's next job."""
    pairs = []
    for node_id in NODES.values():
        ending = start_work(fleet, task=task, minsched=at(node_id))
        following = Work(ending.path.with_suffix(".next"), [])
        path = str(following.path)
        following.jobs.append(fleet.send(task, path, ignore_result=True, minsched=at(node_id)))
        pairs.append((ending, following))
    proxy.hold_answers()
    for ending, _ in pairs:
        ending.let_end()
    for _, following in pairs:
        wait_for(lambda job=following.jobs[0]: fleet.job(job.id).status == "running")  # type: ignore[misc]
    assert [following.began for _, following in pairs] == [[], []]
    return pairs


def assert_each_ran_once(fleet: Fleet, pairs: list[tuple[Work, Work]]) -> None:
    for ending, following in pairs:
        wait_for(lambda work=following: work.began, "the next job to begin")  # type: ignore[misc]
        following.let_end()
        for work in (ending, following):
            [job] = work.jobs
            wait_for(lambda job=job: fleet.job(job.id).status == "finished")  # type: ignore[misc]
    fleet.wait_idle()
    for ending, following in pairs:
        times = [len(each) for work in (ending, following) for each in (work.began, work.ended)]
        assert times == [1, 1, 1, 1]


@pytest.mark.parametrize("task", ["works", "works_late"])
def test_a_cut_connection_before_the_answer_loses_and_doubles_nothing(
    fleet: Fleet, proxy: Proxy, task: str
) -> None:
    pairs = lose_answers(fleet, proxy, task)
    proxy.cut()
    proxy.release()
    proxy.mend()
    assert_each_ran_once(fleet, pairs)


@pytest.mark.parametrize("task", ["works", "works_late"])
def test_a_node_killed_before_the_answer_loses_and_doubles_nothing(
    fleet: Fleet, proxy: Proxy, task: str
) -> None:
    pairs = lose_answers(fleet, proxy, task)
    for node_id in NODES.values():
        fleet.destroy(node_id)
    proxy.release()
    start(fleet)
    assert_each_ran_once(fleet, pairs)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_a_node_that_stops_hands_back_the_job_that_an_answer_brings(
    fleet: Fleet, proxy: Proxy, signum: int
) -> None:
    """The answer comes when the node has begun to stop."""
    pairs = lose_answers(fleet, proxy, "works_late")
    for node_id in NODES.values():
        fleet.kill(node_id, signum)
        wait_for(lambda node_id=node_id: "hutdown" in fleet.log(node_id), "the node to stop")  # type: ignore[misc]
    proxy.release()
    for node_id in NODES.values():
        fleet.processes[node_id].wait(30)
    assert [fleet.job(work.jobs[0].id).status for _, work in pairs] == ["waiting"] * 2  # type: ignore[union-attr]
    start(fleet)
    assert_each_ran_once(fleet, pairs)


def test_a_node_does_not_send_a_large_message_back(
    server: Server, proxy: Proxy, client: redis.Redis
) -> None:
    """The first message comes over the node's queue, the others in the answers to completions."""
    with checked(Fleet(server, broker=proxy.url)) as fleet:
        start(fleet)
        warm_up(fleet)
        for node_id in NODES.values():
            before = proxy.sent
            jobs = [fleet.send("digest", "x" * MEGABYTE, minsched=at(node_id)) for _ in range(5)]
            for job in jobs:
                stored(job)
            fleet.wait_idle()
            sent = proxy.sent - before
            # Two kilobytes for each job, and the heartbeats of both nodes.
            assert sent < len(jobs) * 2000 + 20_000, f"{node_id} sent {sent} bytes"
