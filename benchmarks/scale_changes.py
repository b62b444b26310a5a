"""Scale: changes of a node or a pool with many waiting jobs, and many due delayed jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.scale_fleet import Fleet, Row, Sizes, names
from benchmarks.scale_order import CAPABILITIES, combined

SLOTS = 50


def paused_pool(sizes: Sizes) -> Iterator[Row]:
    """A pool with many lines is paused and resumes."""
    with Fleet() as fleet:
        fleet.add_nodes(names("n", 20), SLOTS, capabilities=CAPABILITIES)
        fleet.service.pause_pool("p")
        fleet.send_each(combined(sizes.lines))
        size = f"{sizes.lines:,} lines, {20 * SLOTS:,} slots"
        with fleet.measured() as run:
            fleet.service.pause_pool("p", False)
            for node_id in names("n", 20):
                fleet.beat_while_due(node_id)
        taken = sum(map(fleet.taken, names("n", 20)))
        most = min(sizes.lines, 20 * SLOTS)
        yield run.row("a paused pool resumes", size, f"{taken:,} slots taken", taken == most)
        with fleet.measured() as run:
            fleet.service.pause_pool("p")
        yield run.row("the pool is paused", size)


def required_node(sizes: Sizes) -> Iterator[Row]:
    """The node that many lines require is drained, undrained, and leaves."""
    with Fleet() as fleet:
        fleet.add_node("one", 1, capabilities=CAPABILITIES)
        fleet.send(1)
        demand = {"preferred_node": "one", "affinity": "require"}
        fleet.send_each(combined(sizes.lines, **demand))
        fleet.add_node("other", SLOTS, capabilities=CAPABILITIES)
        size = f"{sizes.lines:,} lines"
        idle = fleet.taken("other") == 0
        with fleet.measured() as run:
            fleet.service.drain_node("one")
            beats = fleet.beat_while_due("other")
        taken = fleet.taken("other")
        yield run.row(
            "the node that all lines require is drained",
            size,
            f"{beats} heartbeats, {taken} of {SLOTS} slots of another node taken",
            idle and taken == SLOTS,
        )
        with fleet.measured() as run:
            fleet.service.drain_node("one", False)
            fleet.beat_while_due("one")
            fleet.beat_while_due("other")
        yield run.row("it works again", size)
        with fleet.measured() as run:
            fleet.beat("one", online=False, jobs=[])
            beats = fleet.beat_while_due("other")
        yield run.row("it leaves", size, f"{beats} heartbeats")


def delayed_jobs(sizes: Sizes) -> Iterator[Row]:
    """All delayed jobs become due at one moment."""
    count = sizes.lines
    with Fleet() as fleet:
        fleet.add_node("n", sizes.held)
        due = fleet.views.now() + count // 2 + 1000
        fleet.send(count, due_ts=due)
        time.sleep(max(0.0, (due - fleet.views.now()) / 1000))
        with fleet.measured() as run:
            beats = fleet.beat_while_due("n")
        left = fleet.client.zcard(fleet.keys("delayed"))
        yield run.row(
            "delayed jobs fall due at one moment",
            f"{count:,} jobs, {sizes.held:,} slots",
            f"{beats} heartbeats, {run.seconds:.1f} s, {left:,} left",
            left == 0 and fleet.taken("n") == min(sizes.held, count),
        )


def stopping_node(sizes: Sizes) -> Iterator[Row]:
    """A node with many jobs registers again, gives the jobs back, and leaves."""
    with Fleet() as fleet:
        fleet.add_node("big", sizes.held)
        jobs = [job.job_id for job in fleet.send(sizes.held)]
        fleet.beat("big", jobs=jobs)
        size = f"{sizes.held:,} jobs"
        with fleet.measured() as run:
            fleet.add_node("big", sizes.held, ["p", "q"], CAPABILITIES)
        yield run.row("a node is registered anew", size)
        half = len(jobs) // 2
        fleet.park("big", jobs[:half])
        fleet.beat("big", jobs=jobs, state="stopping")
        with fleet.measured() as run:
            fleet.service.place_jobs(jobs[:half], "big")
        left = fleet.taken("big")
        yield run.row("a node gives back jobs", f"{half:,} jobs", f"{left:,} left", left == half)
        fleet.client.delete(fleet.keys("node_queue", "big"))
        fleet.add_node("other", 1, ["other"])
        with fleet.measured() as run:
            fleet.beat("big", online=False, jobs=[])
            beats = 0
            while fleet.taken("big") and beats < 1000:
                beats += fleet.beat_while_due("other")
        left = fleet.taken("big")
        yield run.row("a node leaves", f"{half:,} jobs", f"{beats} heartbeats, {left:,} left")


CASES = (paused_pool, required_node, delayed_jobs, stopping_node)
