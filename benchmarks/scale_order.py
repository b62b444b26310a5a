"""Scale: order and fairness. No slot stays idle, and no job overtakes an earlier job."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

from benchmarks.scale_fleet import Fleet, Row, Sizes, ask, at_nodes, names
from celery_minsched import DispatchRequest

CAPABILITIES = names("c", 40)
NODES, SLOTS = 10, 8  # without capabilities


def freed_slots(sizes: Sizes) -> Iterator[Row]:
    """Slots become free at nodes that cannot serve most lines of their pool."""
    for lines in (sizes.few, sizes.lines):
        with Fleet() as fleet:
            fleet.add_node("able", 50, capabilities=CAPABILITIES)
            plain = names("plain", NODES)
            fleet.add_nodes(plain, SLOTS)
            fleet.send(50 + NODES * SLOTS)
            fleet.send_each(combined(lines))
            fleet.send(sizes.few)
            idle = overtook = 0
            with fleet.measured() as run:
                for node_id in plain * 4:
                    fleet.complete(fleet.held(node_id)[0], node_id)
                    if fleet.taken(node_id) < SLOTS:
                        idle += 1
                        overtook += at_nodes(fleet.send(1))
            yield run.row(
                "a slot frees behind lines of others",
                f"{lines:,} lines, {sizes.few:,} jobs behind",
                f"{idle} of {4 * NODES} slots left idle, {overtook} new jobs overtook",
                idle == overtook == 0,
            )


def shared_capability(sizes: Sizes) -> Iterator[Row]:
    """Slots become free at a node with one of two capabilities. Earlier lines ask for both."""
    with Fleet() as fleet:
        fleet.add_node("able", 50, capabilities=["a", *CAPABILITIES])
        fleet.add_node("half", SLOTS, capabilities=["a"])
        fleet.send(50 + SLOTS)
        fleet.send_each(combined(sizes.lines, "a"))
        fleet.send(sizes.few, capabilities=["a"])
        with fleet.measured() as run:
            for job_id in fleet.held("half"):
                fleet.complete(job_id, "half")
            beats = 0
            while fleet.taken("half") < SLOTS and beats < 1000:
                beats += fleet.beat_while_due("half", most=1000)
        yield run.row(
            "a slot frees at a node with half of what the earlier lines ask for",
            f"{sizes.lines:,} lines, {sizes.few:,} jobs behind",
            f"{SLOTS - fleet.taken('half')} of {SLOTS} slots left idle after {beats} heartbeats",
            fleet.taken("half") == SLOTS,
        )


def resumed_pool(sizes: Sizes) -> Iterator[Row]:
    """A pool with many free slots resumes while new jobs arrive."""
    newcomers = sizes.few // 10
    nodes = min(300, sizes.waiting // SLOTS // 2)
    with Fleet() as fleet:
        fleet.add_nodes(names("n", nodes), SLOTS)
        fleet.service.pause_pool("p")
        fleet.send(sizes.waiting)
        with fleet.measured() as run:
            fleet.service.pause_pool("p", False)
            overtook = sum(at_nodes(fleet.send(1)) for _ in range(newcomers))
        yield run.row(
            "a paused pool resumes, and new jobs come",
            f"{sizes.waiting:,} wait, {nodes * SLOTS:,} slots",
            f"{overtook} of {newcomers} new jobs overtook",
            overtook == 0,
        )


def joining_node(sizes: Sizes) -> Iterator[Row]:
    """A node with many slots joins a pool with many waiting jobs."""
    with Fleet() as fleet:
        fleet.add_node("n", 1)
        fleet.send(1 + sizes.waiting)
        size = f"{sizes.waiting:,} wait, {sizes.held:,} slots"
        with fleet.measured() as run:
            fleet.add_node("new", sizes.held)
            overtook = sum(at_nodes(fleet.send(1)) for _ in range(10))
        yield run.row(
            "a node joins, and new jobs come",
            size,
            f"{overtook} of 10 new jobs overtook",
            overtook == 0,
        )
        with fleet.measured() as run:
            beats = fleet.beat_while_due("new")
        yield run.row(
            "its heartbeats until it is full",
            size,
            f"{beats} heartbeats, {run.seconds:.1f} s",
            fleet.taken("new") == sizes.held,
        )


def combined(lines: int, *common: str, **demand: str) -> Iterator[DispatchRequest]:
    """Jobs of different lines. Each line has its own combination of capabilities."""
    for chosen in islice(combinations(CAPABILITIES, 4), lines):
        yield ask(capabilities=[*common, *chosen], **demand)


CASES = (freed_slots, shared_capability, resumed_pool, joining_node)
