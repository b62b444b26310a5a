"""Scale: nodes die, and many jobs end, expire or are revoked together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks.scale_fleet import MIN_PAUSE, Fleet, Row, Sizes, at_nodes, names, pages
from benchmarks.scale_runs import keyed

TTL = 1.0  # seconds
SHORT = {"node_ttl": TTL, "heartbeat_interval": TTL / 4, "lease": 60.0, "history_ttl": 120.0}
PATIENCE = 30.0  # seconds until a case gives up


def silent_nodes(sizes: Sizes) -> Iterator[Row]:
    """Many nodes stop sending heartbeats, or no heartbeat reaches Redis for a time."""
    for nodes in (sizes.nodes // 5, sizes.nodes):
        with Fleet(**SHORT) as fleet:
            fleet.add_nodes(names("n", nodes))
            size = f"{nodes:,} nodes"
            time.sleep(1.2 * TTL)
            with fleet.measured() as run:
                answer = fleet.send(1)
            is_placed = at_nodes(answer) == 1
            yield run.row(
                "no heartbeat arrived for longer than node_ttl: the first dispatch",
                size,
                "placed" if is_placed else "waits",
                is_placed,
            )
            lives = names("live", 3)
            fleet.add_nodes(lives)
            _beat_for(fleet, lives, 1.3 * TTL)
            with fleet.measured() as run:
                node_ids = [fleet.send(1)[0].node_id for _ in range(10)]
            yield run.row(
                "three nodes live, the others are silent: ten dispatches",
                size,
                f"{sum(node_id in lives for node_id in node_ids)} at live nodes, "
                f"{node_ids.count('')} wait",
                {*lives, ""} >= set(node_ids),
            )
            yield _mark_dead(fleet, nodes, lives)


def _beat_for(fleet: Fleet, node_ids: Sequence[str], seconds: float) -> None:
    """Send heartbeats of these nodes for some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fleet.beat_all(node_ids)
        time.sleep(TTL / 4)


def _mark_dead(fleet: Fleet, nodes: int, lives: Sequence[str]) -> Row:
    """Send heartbeats of three live nodes until the others are marked dead."""
    beats = 0
    with fleet.measured() as run:
        until = time.monotonic() + PATIENCE
        while (left := _silent(fleet) - len(lives)) > 0 and time.monotonic() < until:
            due = [fleet.beat(node_id, jobs=None).next_due_ms for node_id in lives]
            beats += len(lives)
            time.sleep(_pause(due, TTL / 4))
    return run.row(
        "three live nodes find the others dead",
        f"{nodes:,} nodes",
        f"{beats:,} heartbeats, {run.seconds:.0f} s, {left:,} left",
        left == 0,
    )


def _silent(fleet: Fleet) -> int:
    """The number of nodes that are not marked dead yet."""
    return int(fleet.client.zcount(fleet.keys("nodes"), 0, "+inf"))


def _pause(due: Sequence[int], interval: float) -> float:
    """Seconds until the next heartbeat of a node agent."""
    waits = [ms / 1000 for ms in due if ms >= 0]
    return min([interval, *(seconds + MIN_PAUSE for seconds in waits)])


def dead_node(sizes: Sizes) -> Iterator[Row]:
    """A node with many jobs dies. The jobs go to another node, or back into line."""
    for room in (sizes.held, 1):
        with Fleet(**SHORT) as fleet:
            fleet.add_node("big", sizes.held)
            jobs = [job.job_id for job in fleet.send(sizes.held)]
            fleet.add_node("other", room, ["p"] if room > 1 else ["other"])
            fleet.beat("big", jobs=jobs)
            fleet.beat_for(1.6 * TTL, "other")
            fleet.park("big", jobs)
            with fleet.measured() as run:
                until = time.monotonic() + PATIENCE
                ids = jobs
                while fleet.taken("big") and time.monotonic() < until:
                    if fleet.beat("other", rescues=True).rescue_due:
                        node_id, _ = fleet.service.claim_rescue()
                        if node_id:
                            _rescue(fleet, node_id, ids)
                            ids = []
                    time.sleep(0.05)
            left = fleet.taken("big")
            yield run.row(
                f"the jobs of a dead node go {'to another node' if room > 1 else 'into line'}",
                f"{sizes.held:,} jobs",
                f"{run.seconds:.1f} s, {left:,} left",
                left == 0,
            )


def _rescue(fleet: Fleet, node_id: str, job_ids: list[str]) -> None:
    """Place the jobs of a node in pages, until a page places and loses no job."""
    for page in pages(job_ids):
        fleet.service.rescue_node(node_id, page)
    while True:
        placed, lost, left = fleet.service.rescue_node(node_id)
        if not left or not placed + lost:
            return


def large_rescue(sizes: Sizes) -> Iterator[Row]:
    """A rescuer places the jobs of all messages in the queue of a dead node."""
    with Fleet() as fleet:
        fleet.add_node("n", 1)
        jobs = [job.job_id for job in fleet.send(sizes.lines + 1) if not job.node_id]
        with fleet.measured() as run:
            _rescue(fleet, "gone", jobs)
        yield run.row("rescue_node", f"{len(jobs):,} jobs that are placed already")


def large_heartbeats(sizes: Sizes) -> Iterator[Row]:
    """A node with many jobs sends heartbeats. The first lists the jobs. The others renew leases."""
    with Fleet(node_ttl=2.0, heartbeat_interval=0.5, lease=2.0, history_ttl=60.0) as fleet:
        fleet.add_node("big", sizes.held)
        jobs = [job.job_id for job in fleet.send(sizes.held)]
        size = f"{sizes.held:,} jobs"
        steps = (
            ("the first heartbeat that names the jobs of a node", 0.0),
            ("the next heartbeat", 0.0),
            ("the heartbeats that renew their leases", 1.1),
        )
        for path, pause in steps:
            time.sleep(pause)
            foreign_jobs = 0
            with fleet.measured() as run:
                for _ in range(4 if pause else 1):
                    foreign_jobs += len(fleet.beat("big", jobs=jobs).not_yours)
            held = fleet.taken("big")
            yield run.row(path, size, f"{held:,} held", held == sizes.held and not foreign_jobs)


def expiry(sizes: Sizes) -> Iterator[Row]:
    """All jobs of a line expire at one moment. Each job has its own fairness key."""
    count = sizes.lines
    with Fleet() as fleet:
        fleet.add_node("n", 1)
        fleet.send(1)
        begins = time.monotonic()
        expires = fleet.views.now() + 1000  # only heartbeats find expired jobs
        fleet.send_each(keyed(count, expires_ts=expires))
        time.sleep(max(0.0, 2.2 - (time.monotonic() - begins)))
        yield _until_empty(fleet, "jobs expire at one moment, with one live node", count)


def _until_empty(fleet: Fleet, path: str, count: int) -> Row:
    """Send heartbeats like a node agent until no job waits.

    The node takes the messages that it has to discard.
    """
    beats = 0
    with fleet.measured() as run:
        until = time.monotonic() + PATIENCE
        while (left := fleet.client.zcard(fleet.keys("waiting", "p//"))) and (
            time.monotonic() < until
        ):
            due = fleet.beat("n", jobs=fleet.held("n")).next_due_ms
            fleet.client.delete(fleet.keys("node_queue", "n"))
            beats += 1
            time.sleep(_pause([due], 1.0))
    return run.row(
        path,
        f"{count:,} jobs and fairness keys",
        f"{beats} heartbeats, {run.seconds:.1f} s, {left:,} left",
        left == 0,
    )


def last_in_line(sizes: Sizes) -> Iterator[Row]:
    """The last job leaves a line that has had many fairness keys."""
    with Fleet() as fleet:
        fleet.add_node("n", 1)
        fleet.send(1)
        fleet.send_each(keyed(sizes.waiting))
        with fleet.measured() as run:
            for page in pages(names("t", sizes.waiting)):
                fleet.service.revoke_tasks(page, "n")
        left = fleet.waiting()
        yield run.row(
            "revoke_tasks, until the line is empty",
            f"{sizes.waiting:,} jobs and fairness keys",
            f"{left} left",
            left == 0,
        )


CASES = (
    silent_nodes,
    dead_node,
    large_rescue,
    large_heartbeats,
    expiry,
    last_in_line,
)
