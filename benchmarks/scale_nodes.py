"""Scale with real nodes: tasks run, a node dies, and many tasks are revoked or expire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

from celery import Celery, Signature

from benchmarks.common import check, wait_for
from benchmarks.scale_fleet import DAY, Fleet, Row, Sizes, used_cpu
from benchmarks.trace_app import make_app
from benchmarks.workers import logs, workers
from celery_minsched.simulation.trace import Node

NODES = [Node("r0", 4, ("p", "q")), Node("r1", 4, ("p", "q"))]
TIMES = {"node_ttl": 8.0, "lease": 30.0, "history_ttl": DAY}
WORK = 0.2  # seconds of work of a task
PATIENCE = 60.0  # time limit in seconds
MAX_DELAY = 2000  # limit of the additional time of a task, in ms


def jobs_of_real_nodes(sizes: Sizes) -> Iterator[Row]:
    """Real nodes run tasks that do nothing. Measures their cost in Redis."""
    count = sizes.batch
    with _real_nodes() as (fleet, app):
        app.minsched.dispatch_many(_tasks(app, 2 * len(NODES), 0.0))
        _wait_until_idle(fleet)
        cpu_before = used_cpu(fleet.client)
        with fleet.measured() as run:
            for task in _tasks(app, count, 0.0):
                task.apply_async()
            _wait_until_idle(fleet)
        cpu_ms = 1000 * (used_cpu(fleet.client) - cpu_before) / count
        yield run.row(
            "tasks that do nothing, two real nodes",
            f"{count:,} tasks",
            f"{cpu_ms:.2f} ms of CPU time a task, {count / run.seconds:.0f} tasks a second",
        )


def rescued_jobs(sizes: Sizes) -> Iterator[Row]:
    """A node with many jobs dies, and real nodes move its messages and place its jobs."""
    count = sizes.held
    with (
        Fleet(**TIMES) as fleet,
        closing(make_app(fleet.server.url, "ours")) as app,
    ):
        fleet.add_node("big", count)
        app.minsched.dispatch_many(_tasks(app, count, 10.0))
        fleet.beat("big", jobs=fleet.held("big"))
        with workers("ours", NODES, fleet.server.url) as directory, fleet.measured() as run:
            nodes = fleet.keys("nodes")
            # The rescue is short, but a dead node keeps its negative score.
            wait_for(
                lambda: (fleet.client.zscore(nodes, "big") or 0) < 0,
                lambda: f"not dead:\n{logs(directory)}",
            )
            began = time.monotonic()
            while (left := fleet.taken("big")) and time.monotonic() < began + PATIENCE:
                time.sleep(0.05)
            seconds = time.monotonic() - began
        yield run.row(
            "a node dies, two real nodes place its jobs",
            f"{count:,} jobs",
            f"{seconds:.1f} s, {left:,} left",
            not left and seconds < 10,
        )


def revoked_tasks(sizes: Sizes) -> Iterator[Row]:
    """Waiting tasks are revoked while the nodes run tasks of another pool."""
    count = 2 * sizes.batch
    with _real_nodes() as (fleet, app):
        fleet.service.pause_pool("p")
        results = app.minsched.dispatch_many(_tasks(app, count, WORK))
        ids = [result.id for result in results]
        with fleet.measured() as run:
            app.control.revoke(ids)
            task_ids, seconds = _send_until_empty(fleet, app)
            times = _ended(app, task_ids)
        delay = max(ended - sent for sent, ended in times) - 1000 * WORK
        left = fleet.waiting()
        yield run.row(
            "waiting tasks are revoked, two real nodes run others",
            f"{count:,} tasks",
            f"{seconds:.1f} s, {left:,} left, a task takes {delay:.0f} ms more at most",
            delay < MAX_DELAY and not left,
        )


def expired_tasks(sizes: Sizes) -> Iterator[Row]:
    """Waiting tasks expire at one moment."""
    count = 2 * sizes.batch
    with _real_nodes() as (fleet, app):
        fleet.service.pause_pool("p")
        expires = datetime.now(UTC) + timedelta(seconds=5)
        app.minsched.dispatch_many([task.set(expires=expires) for task in _tasks(app, count, WORK)])
        time.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds() + 1))
        with fleet.measured() as run:
            wait_for(lambda: not fleet.waiting(), lambda: f"{fleet.waiting()} tasks wait")
        yield run.row(
            "waiting tasks expire at one moment, two real nodes",
            f"{count:,} tasks",
            f"{run.seconds:.0f} s, {count / run.seconds:,.0f} a second",
        )


@contextmanager
def _real_nodes() -> Iterator[tuple[Fleet, Celery]]:
    """A server with running nodes, and an application."""
    with (
        Fleet(**TIMES) as fleet,
        workers("ours", NODES, fleet.server.url) as directory,
        closing(make_app(fleet.server.url, "ours")) as app,
    ):
        free = fleet.keys("pool_free", "q")
        wait_for(
            lambda: fleet.client.zcard(free) == len(NODES),
            lambda: f"the nodes did not start:\n{logs(directory)}",
        )
        yield fleet, app
        check(app.minsched.views)


def _wait_until_idle(fleet: Fleet) -> None:
    wait_for(
        lambda: (
            not fleet.client.hlen(fleet.keys("lines"))
            and not any(fleet.taken(node.name) for node in NODES)
        ),
        lambda: "not all tasks have ended",
    )


def _tasks(app: Celery, count: int, seconds: float) -> list[Signature]:
    """Signatures of tasks for pool p. Each task runs for ``seconds``."""
    task = app.signature("replay.work")
    return [task.clone((number, seconds)).set(minsched={"pool": "p"}) for number in range(count)]


def _send_until_empty(fleet: Fleet, app: Celery) -> tuple[list[str], float]:
    """Send tasks to pool q until no task waits in pool p. Returns their ids and the seconds."""
    began = time.monotonic()
    sent: list[str] = []
    while fleet.client.hlen(fleet.keys("lines")) and time.monotonic() < began + PATIENCE:
        sent.append(app.send_task("replay.work", (0, WORK), minsched={"pool": "q"}).id)
        time.sleep(WORK / 2)
    return sent, time.monotonic() - began


def _ended(app: Celery, task_ids: list[str]) -> list[tuple[int, int]]:
    """The send time and the end time of each task, in ms. Waits until all tasks have ended."""
    find = app.minsched.find_job
    wait_for(
        lambda: all(find(task_id).status == "finished" for task_id in task_ids),
        lambda: "not all tasks have ended",
    )
    jobs = [find(task_id) for task_id in task_ids]
    return [(job.created_ts, job.ended_ts) for job in jobs]


CASES = (jobs_of_real_nodes, rescued_jobs, revoked_tasks, expired_tasks)
