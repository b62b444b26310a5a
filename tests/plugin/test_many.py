"""Many publishers, jobs and delayed jobs: each job runs once and in time, and no memory grows."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest
import redis

from ..support.crowd import mark, marks, wait_quiet
from ..support.due_times import lateness, soon
from ..support.fleet import FAST, ROOT, Fleet, make_app, wait_for
from ..support.server import Server, milliseconds


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    with server.client(socket_timeout=60) as client:  # the machine may be slow
        yield client


def publishers(
    fleet: Fleet, jobs: int, processes: int, threads: int
) -> list[subprocess.Popen[bytes]]:
    """Start processes with threads. Each process sends its share of the jobs."""
    share = jobs // processes
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.publishers", fleet.server.url),
                *(str(number) for number in (share, threads, process * share)),
            ],
            cwd=ROOT,
            env=fleet.environment,
        )
        for process in range(processes)
    ]


def run_crowd(
    fleet: Fleet, client: redis.Redis, jobs: int, processes: int, threads: int, patience: float
) -> None:
    """Send the jobs while the nodes run them. Check that each ran once and left no state."""
    began = time.monotonic()
    senders = publishers(fleet, jobs, processes, threads)
    longest = 0
    try:
        while any(sender.poll() is None for sender in senders):
            longest = max(longest, sum(line.waiting for line in fleet.views.lines()))
            time.sleep(0.1)
    finally:
        for sender in senders:
            sender.terminate()
    assert [sender.returncode for sender in senders] == [0] * processes
    order = marks(client, "crowd", jobs, patience)
    seconds = time.monotonic() - began
    wait_quiet(fleet, client)
    assert sorted(map(int, order)) == list(range(jobs))
    print(
        f"\n{jobs} jobs of {processes * threads} publishers on {len(fleet.processes)} nodes: "
        f"{seconds:.1f} s, {jobs / seconds:.0f} jobs/s, at most {longest} waiting"
    )


def test_each_job_of_many_publishers_runs_once_and_leaves_no_state(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server)
    try:
        for node_id, slots in (("a", 1), ("b", 2), ("c", 4)):
            fleet.start(node_id, "-P", "threads", slots=slots)
        fleet.wait_online("a", "b", "c")
        run_crowd(fleet, client, jobs=600, processes=2, threads=8, patience=60)
    finally:
        fleet.close()


@pytest.mark.soak
def test_50_000_jobs_of_64_publishers_run_once_each_on_8_nodes(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server)
    try:
        nodes = [f"n{number}" for number in range(8)]
        for number, node_id in enumerate(nodes):
            fleet.start(node_id, "-P", "threads", slots=1 + number % 4)
        fleet.wait_online(*nodes)
        workers = [psutil.Process(process.pid) for process in fleet.processes.values()]
        run_crowd(fleet, client, jobs=5_000, processes=8, threads=8, patience=300)
        client.delete("test:marks:crowd")
        before = [worker.memory_info().rss for worker in workers]
        run_crowd(fleet, client, jobs=50_000, processes=8, threads=8, patience=1800)
        grown = [w.memory_info().rss - rss for w, rss in zip(workers, before, strict=True)]
        print(f"the nodes grew by {[f'{rss / 2**20:.1f} MB' for rss in grown]}")
        assert max(grown) < 10 * 2**20
    finally:
        fleet.close()


def publish_many(server: Server, jobs: int) -> None:
    """Publish jobs that wait, and check that the memory of this process does not grow."""
    app = make_app(server.url, task_ignore_result=True)

    def publish(count: int) -> tuple[int, int]:
        for number in range(count):
            demand = {"pool": "asr", "session_id": f"s{number}"}
            app.send_task("tests.support.app.add", (number,), minsched=demand, ignore_result=True)
        gc.collect()
        return len(gc.get_objects()), psutil.Process().memory_info().rss

    objects_before, rss_before = publish(1100)  # fills the cache of 1,024 demands
    queues = len(app.amqp.queues)
    objects, rss = publish(jobs)
    assert len(app.amqp.queues) == queues
    assert objects - objects_before < 200
    grown = f"{(rss - rss_before) / 2**10:.0f} kB, {objects - objects_before} objects"
    print(f"\n{jobs} publishes: {grown}")
    assert rss - rss_before < 8 * 2**20


@pytest.fixture
def no_warnings() -> Iterator[None]:
    """Disable warnings, because pytest keeps all log records in memory."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_warnings")
def test_the_memory_of_a_publisher_does_not_grow(server: Server) -> None:
    publish_many(server, 500)


@pytest.mark.soak
@pytest.mark.usefixtures("no_warnings")
def test_the_memory_of_a_publisher_of_20_000_jobs_does_not_grow(server: Server) -> None:
    publish_many(server, 20_000)


@pytest.mark.soak
def test_100_000_delayed_tasks_survive_a_restart_and_run_in_time() -> None:
    """Half of the tasks are due within a minute. 5,000 of these tasks have the same due time."""
    count, crowd = 100_000, 5_000
    server = Server("--appendonly", "yes")
    fleet = Fleet(server)
    try:
        fleet.start_ready("a", "-P", "threads", slots=8)
        began = time.monotonic()
        # The machine sends about 1,000 tasks a second. The first task falls due after all are sent.
        first = soon(count / 400)
        results = fleet.plugin.dispatch_many(
            mark(
                fleet.app,
                "delayed",
                number,
                eta=first + timedelta(seconds=0 if number < crowd else number * 60 / (count / 2)),
            )
            for number in range(count)
        )
        print(f"\nsent in {time.monotonic() - began:.0f} s")
        fleet.stop("a")
        server.stop()
        began = time.monotonic()
        server.start()
        with server.client() as client:
            print(f"the server was back after {time.monotonic() - began:.1f} s")
            assert client.zcard("scheduler:delayed") == count
            for node_id in "bcde":
                fleet.start(node_id, "-P", "threads", slots=8)
            fleet.wait_online(*"bcde")
            back_ts = milliseconds(client)
            assert back_ts < first.timestamp() * 1000, "the machine is too slow for this test"
            wait_for(lambda: not client.exists("scheduler:delayed"), "all tasks to be due", 900)
            delays = lateness(client, *results, since=back_ts)
            p50, p99 = delays[count // 2], delays[count * 99 // 100]
            print(f"late by {p50:.3f} s (median), {p99:.3f} s (p99), {delays[-1]:.3f} s (most)")
            delays = lateness(client, *results[:crowd], since=back_ts)
            print(f"with the same due time: {delays[crowd // 2]:.3f} s and {delays[-1]:.3f} s")
            assert p99 < 1
            order = marks(client, "delayed", count, 1800)
            assert sorted(map(int, order)) == list(range(count))
            wait_quiet(fleet, client)
    finally:
        fleet.close()
        server.close()


def test_the_first_node_places_all_jobs_that_fell_due_without_a_node(
    server: Server, client: redis.Redis
) -> None:
    fleet = Fleet(server, **FAST)
    try:
        results = fleet.plugin.dispatch_many(
            mark(fleet.app, "overdue", number, countdown=1) for number in range(600)
        )
        wait_for(lambda: lateness_of_head(client) > 0.2, "the first tasks to be due")
        fleet.start_ready("a", "-P", "threads", slots=4)
        back_ts = milliseconds(client)
        marks(client, "overdue", 600)
        assert lateness(client, *results, since=back_ts)[-1] < 1
        wait_quiet(fleet, client)
    finally:
        fleet.close()


def lateness_of_head(client: redis.Redis) -> float:
    [(_, due)] = client.zrange("scheduler:delayed", 0, 0, withscores=True)
    return (milliseconds(client) - due) / 1000
