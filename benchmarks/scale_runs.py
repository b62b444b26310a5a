"""Scale: scripts that work on lines, nodes or jobs."""

from __future__ import annotations

from collections.abc import Iterator

import redis

from benchmarks.scale_fleet import PAGE, Fleet, Row, Sizes, ask, at_nodes, message_of, names, placed
from benchmarks.scale_order import combined
from celery_minsched import DispatchRequest
from celery_minsched.core.models import DispatchResponse

PAIR = {"src_lang": "zh", "tgt_lang": "en"}
SPEAKER = [{"id": "mt", "langs": [["zh", "en"]]}]


def common_paths(sizes: Sizes) -> Iterator[Row]:
    """Calls of all jobs and nodes, with many nodes, lines and waiting jobs."""
    with Fleet() as fleet:
        fleet.add_nodes(names("n", sizes.nodes))
        fleet.add_node("busy", 50, ["q"], names("c", 40))
        fleet.send(50, pool="q")
        fleet.send_each(combined(sizes.lines, pool="q"))
        fleet.send(sizes.waiting - sizes.lines, pool="q")
        size = f"{sizes.nodes:,} nodes, {sizes.lines:,} lines, {sizes.waiting:,} wait"
        few = sizes.few // 10
        with fleet.measured() as run:
            fleet.send(few)
        yield run.row(f"dispatch, {PAGE} jobs a call", size)
        with fleet.measured() as run:
            jobs = [fleet.send(1)[0] for _ in range(few)]
        yield run.row("dispatch", size, f"{at_nodes(jobs)} of {few} placed", at_nodes(jobs) == few)
        with fleet.measured() as run:
            for number, job in enumerate(jobs):
                fleet.service.claim_job(job.job_id, job.node_id, f"tag-{number}", f"c{number}")
        yield run.row("claim", size)
        with fleet.measured() as run:
            for job in jobs:
                fleet.complete(job.job_id, job.node_id)
        yield run.row("complete", size)
        with fleet.measured() as run:
            for job_id in fleet.held("busy"):
                fleet.complete(job_id, "busy")
        yield run.row("complete, and take the next", size)
        with fleet.measured() as run:
            for number in range(few):
                fleet.beat(f"n{number}", jobs=[])
        yield run.row("heartbeat", size)
        with fleet.measured() as run:
            for number in range(few):
                fleet.add_node(f"n{number}")
        yield run.row("register", size)


def language_pairs(sizes: Sizes) -> Iterator[Row]:
    """The pools of a language pair change while many lines wait for it."""
    times = {"node_ttl": 1.0, "heartbeat_interval": 0.25, "lease": 1.0, "history_ttl": 2.0}
    with Fleet(**times) as fleet:
        fleet.add_node("live", 1, ["other"])
        fleet.add_nodes(names("n", 50), 1, SPEAKER)
        fleet.send_each(combined(sizes.few, **PAIR))
        with fleet.measured() as run:
            fleet.beat_for(4.5, "live")
            fleet.beat_while_due("live", jobs=[])
        nodes = fleet.client.zcard(fleet.keys("nodes"))
        yield run.row(
            "50 nodes of a language pair die and are forgotten",
            f"{sizes.few:,} lines",
            f"{nodes - 1} of 50 left",
            nodes == 1,
        )
    with Fleet() as fleet:
        fleet.add_node("live", 1, ["other"])
        fleet.send_each(combined(sizes.few, **PAIR))
        with fleet.measured() as run:
            fleet.service.set_language_pools("zh", "en", names("mt", 32))
            beats = fleet.beat_while_due("live")
        size = f"{sizes.few:,} lines, 32 pools"
        yield run.row("set_language_pools", size, f"{beats} heartbeats, {run.seconds:.1f} s")
    with Fleet() as fleet:
        fleet.add_node("live", 1, ["other"])
        fleet.send_each(combined(sizes.lines, **PAIR))
        size = f"{sizes.lines:,} lines"
        with fleet.measured() as run:
            fleet.add_node("joins", 1, SPEAKER)
            beats = fleet.beat_while_due("live")
        yield run.row("a node joins a language pair", size, f"{beats} heartbeats")
        with fleet.measured() as run:
            fleet.service.set_language_pools("zh", "en", ["mt", "more"])
            beats = fleet.beat_while_due("live")
        yield run.row("set_language_pools adds a pool", size, f"{beats} heartbeats")
        with fleet.measured() as run:
            fleet.service.set_language_pools("zh", "en", [])
            fleet.add_node("joins", 1, ["other"])
            beats = fleet.beat_while_due("live")
        yield run.row("the pair loses its pools", size, f"{beats} heartbeats")


def combinations_of_capabilities(sizes: Sizes) -> Iterator[Row]:
    """Jobs ask for two capabilities. All nodes with both are full, or one node has both."""
    both = ["x", "y"]
    for nodes in (sizes.nodes // 5, sizes.nodes):
        with Fleet() as fleet:
            fleet.add_nodes(names("n", nodes), 1, capabilities=both)
            fleet.send(nodes, capabilities=both)
            size = f"{nodes:,} full nodes with both"
            yield from _into_line(fleet, "two capabilities, into line", size)
    for nodes in (sizes.nodes // 5, sizes.nodes):
        with Fleet() as fleet:
            fleet.add_nodes(names("x", nodes // 2), 1, capabilities=["x"])
            fleet.add_nodes(names("y", nodes // 2), 1, capabilities=["y"])
            size = f"{nodes:,} free nodes with one of them"
            yield from _into_line(fleet, "two capabilities that no node has", size)
            fleet.add_node("rare", 50, capabilities=both)
            fleet.beat("rare", load_json='{"cpu": 90}')
            free = 50 - fleet.taken("rare")
            with fleet.measured() as run:
                fleet.send(free, capabilities=both)
                fleet.beat_while_due("rare")
            yield run.row(
                "two capabilities that one node has",
                size,
                f"{fleet.taken('rare')} of 50 slots taken",
                fleet.taken("rare") == 50,
            )


def _into_line(fleet: Fleet, path: str, size: str) -> Iterator[Row]:
    with fleet.measured() as run:
        answers = [fleet.send(1, capabilities=["x", "y"])[0] for _ in range(10)]
    yield run.row(path, size, f"{10 - at_nodes(answers)} of 10 wait", at_nodes(answers) == 0)
    with fleet.measured() as run:
        answers = fleet.send(PAGE, capabilities=["x", "y"])
    count = PAGE - at_nodes(answers)
    yield run.row(f"the same, {PAGE} at once", size, f"{count} of {PAGE} wait", count == PAGE)


def offers(sizes: Sizes) -> Iterator[Row]:
    """Nodes in the largest number of indexes: 16 pools with 15 capabilities each."""
    pools, capabilities = names("p", 16), names("c", 15)
    nodes = names("n", 4)
    size = "4 nodes, 256 indexes each"
    with Fleet() as fleet:
        with fleet.measured() as run:
            for node_id in nodes:
                fleet.add_node(node_id, 400, pools, capabilities)
        yield run.row("register", size)
        with fleet.measured() as run:
            for node_id in nodes * 10:
                fleet.beat(node_id, jobs=[])
        yield run.row("heartbeat", size)
        with fleet.measured() as run:
            jobs = [fleet.send(1, pool="p1")[0] for _ in range(40)]
        yield run.row("dispatch", size, f"{at_nodes(jobs)} of 40 placed", at_nodes(jobs) == 40)
        with fleet.measured() as run:
            jobs = fleet.send(PAGE, pool="p1")
        count = at_nodes(jobs)
        yield run.row(f"dispatch, {PAGE} jobs a call", size, f"{count} placed", count == PAGE)
        fleet.send(1600 - 40 - PAGE, pool="p1")
        fleet.send(1000, pool="p1")
        with fleet.measured() as run:
            fleet.add_node("new", 400, pools, capabilities)
            fleet.beat_while_due("new")
        taken = fleet.taken("new")
        yield run.row("a node joins, 1,000 wait", size, f"{taken} of 400 slots taken", taken == 400)
        fleet.send_each(
            ask(pool=pool, capabilities=[name]) for pool in pools for name in capabilities
        )
        with fleet.measured() as run:
            for job_id in fleet.held("n0")[:PAGE]:
                fleet.complete(job_id, "n0")
        taken = fleet.taken("n0")
        yield run.row(
            "complete, and take the next", size, f"{taken} of 400 slots taken", taken == 400
        )


def large_batches(sizes: Sizes) -> Iterator[Row]:
    """Many jobs in one call, and large messages."""
    with Fleet() as fleet:
        fleet.add_node("n", 1)
        count = sizes.batch
        job = (ask(), message_of())
        answers: list[DispatchResponse] = []
        trouble = ""
        with fleet.measured() as run:
            try:
                answers = placed(fleet.service.dispatch_tasks([job] * count))
            except redis.ResponseError as exc:
                trouble = f"{str(exc)[:40]}: "
        waiting = fleet.waiting()
        yield run.row(
            "dispatch_tasks of one call",
            f"{count:,} jobs",
            f"{trouble}{len(answers):,} answers, {waiting:,} wait",
            len(answers) == count == waiting + 1,
        )
    for slots in (1, PAGE):
        with Fleet() as fleet:
            fleet.add_node("n", slots)
            job = (ask(), message_of(sizes.message))
            with fleet.measured() as run:
                answers = placed(fleet.service.dispatch_tasks([job] * PAGE))
            yield run.row(
                f"dispatch_tasks of one call, {'into line' if slots == 1 else 'to a node'}",
                f"{PAGE} messages of {sizes.message:,} bytes",
                f"{at_nodes(answers)} placed",
                at_nodes(answers) == slots,
            )


def keyed(count: int, **given: object) -> Iterator[DispatchRequest]:
    """Jobs with their own task ids and fairness keys."""
    for number in range(count):
        yield ask(task_id=f"t{number}", token="t", fairness_key=f"k{number}", **given)


CASES = (common_paths, language_pairs, combinations_of_capabilities, offers, large_batches)
