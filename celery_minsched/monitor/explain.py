"""Why a task is where it is, or what it waits for: from its record, and the fleet as it is."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from ..core import lua_source
from .models import NODE_STATES, JobView, NodeView
from .queries import Views, can_do

# Load order, from the top: the share of taken slots, the level of the load, when last chosen.
_MOST_SHARE = lua_source.number("node", "MOST_SHARE")
_LOAD_RANGE = lua_source.number("node", "LOAD_RANGE")
_LAST_CHOSEN_RANGE = lua_source.number("node", "LAST_CHOSEN_RANGE")
_LOADS = ("low", "medium", "high")

#: An obstacle.
PAUSED = "its pool is paused"


class Candidate(BaseModel):
    """A node, and whether it could have the job now."""

    node_id: str
    taken: int
    slots: int
    load: dict[str, float]
    #: "" where it could have the job; else what is in the way.
    obstacle: str


class Explanation(BaseModel):
    """Why a task is where it is."""

    task_id: str
    job: JobView | None
    #: What the job asks for, in words.
    demand: str
    #: What happened and why, a sentence each, first to last.
    story: list[str]
    #: ``placed``, ``waiting``, ``impossible``, ``delayed``, ``ended``, ``lost``, ``unknown``, or
    #: ``broken`` where the job's record cannot be read.
    verdict: str
    #: Jobs that stand before it in its line; ``None`` where it is in none.
    place_in_line: int | None = None
    #: The registered nodes and what speaks against each now, those that fit first.
    candidates: list[Candidate] = []


def why(views: Views, task_id: str, most_candidates: int = 20) -> Explanation:
    """Explain where the latest job of a task is. Reads only."""
    job = views.job_of_task(task_id)
    if job is None:
        return Explanation(
            task_id=task_id,
            job=None,
            demand="",
            verdict="unknown",
            story=[
                f"The scheduler knows no task {task_id!r}: it was never dispatched (no demand, or "
                "a queue of the caller's), or it ended longer ago than minsched_history_ttl."
            ],
        )
    caps = [cap for cap in job.caps.split(",") if cap]
    pools = views.pools_of(job.where)
    candidates = _candidates(views, job, pools, caps)
    place = views.place_in_line(job) if job.status == "waiting" else None
    possible = views.is_possible(job.where, caps)
    return Explanation(
        task_id=task_id,
        job=job,
        demand=_demand(job, caps),
        verdict=_verdict(job, possible),
        story=[
            *_past(job),
            *_present(job, views.now(), place, possible, candidates, views.node(job.node_id)),
        ],
        place_in_line=place,
        candidates=candidates[:most_candidates],
    )


def _demand(job: JobView, caps: list[str]) -> str:
    pool, equals, pairs = job.where.partition("=")
    if not equals:
        pool, pairs = ("", pool) if ":" in pool else (pool, "")
    parts = [
        pool and f"pool {pool}",
        pairs and f"language pair {pairs.replace('|', ' or ')}",
        caps and f"capabilities {', '.join(caps)}",
        job.session_id and f"session {job.session_id}",
        job.preferred and f"preferred node {job.preferred}",
        job.affinity not in ("", "prefer") and f"affinity {job.affinity}",
    ]
    return ", ".join(str(part) for part in parts if part)


def _verdict(job: JobView, possible: bool) -> str:
    if job.status in ("finished", "failed"):
        return "ended"
    if job.status == "waiting":
        return "waiting" if possible else "impossible"
    placed = {"dispatched": "placed", "running": "placed", "parked": "ended"}
    return placed.get(job.status, job.status)


def _past(job: JobView) -> list[str]:
    """How it came to its node."""
    story = []
    if job.rescues:
        died = "a node" if job.rescues == 1 else f"{job.rescues} nodes"
        story.append(f"It was rescued: {died} died while it ran there.")
    if job.from_node:
        story.append(f"It was at node {job.from_node} before, which died or handed it back.")
    if not job.dispatched_ts or not job.node_id:
        return story
    node = f"node {job.node_id}"
    told = {
        "preferred": f"It went to {node}, the node that the caller prefers, which had a free slot.",
        "sticky": f"It went to {node}, where its session's last job was, which had a free slot.",
        "first_free": f"It went to {node}, the first with a free slot that could do it, "
        f"in pool {job.pool}, after {job.waited_ms / 1000:.3f} s in line.",
        "least_loaded": f"It went to {node}, the least loaded with a free slot in pool {job.pool}.",
    }
    if job.chosen_by in told:
        story.append(told[job.chosen_by])
    if job.chosen_by == "least_loaded" and job.decision:
        story.append(_decision(job))
    if job.session_node:
        story.append(
            f"Its session moved: node {job.session_node}, where it was, had no free slot or was "
            "not taking jobs."
        )
    return story


def _decision(job: JobView) -> str:
    free, order, *second = job.decision.split(" ")
    if int(free) == 1:
        return f"No other node of the pool was free then; {_order(order)}."
    text = f"{free} nodes were free then; {job.node_id} had {_order(order)}"
    return f"{text}, the next best, {second[0]}, {_order(second[1])}." if second else f"{text}."


def _order(order: str) -> str:
    share, rest = divmod(int(float(order)), _LOAD_RANGE * _LAST_CHOSEN_RANGE)
    load = _LOADS[min(rest // _LAST_CHOSEN_RANGE, len(_LOADS) - 1)]
    return f"{share / _MOST_SHARE:.0%} of its slots taken and a {load} load"


def _present(
    job: JobView,
    now: int,
    place: int | None,
    possible: bool,
    candidates: list[Candidate],
    node: NodeView | None,
) -> list[str]:
    """The job's present state. ``node`` is the node that has it."""
    if job.broken:
        return [f"Its record cannot be read: {job.broken}. minsched check says what to do."]
    if job.status == "waiting":
        return _waiting(job, now, place, possible, candidates)
    if job.status == "parked":
        return [f"It was {job.reason}; the next node that sends a heartbeat tells its caller."]
    if job.status == "delayed":
        seconds = max(job.due_ts - now, 0) / 1000
        return [f"It is delayed: due in {seconds:.1f} s, and holds no slot before that."]
    if job.status == "dispatched":
        said = f"It has a slot at {job.node_id}, which has not begun it yet."
        return [said, *_at_node(job, node)]
    if job.status == "running":
        said = f"It has been at work there for {max(now - job.started_ts, 0) / 1000:.1f} s."
        return [said, *_at_node(job, node)]
    reason = f": {job.reason}" if job.reason else ""
    return [f"It {'is lost' if job.status == 'lost' else job.status}{reason}."]


#: What the state of its node means for a job that holds a slot there.
_AT_NODE = {
    ("dispatched", "stopping"): "The node is stopping: it hands the job back, to be placed anew.",
    ("running", "stopping"): "The node is stopping: it finishes the job, and leaves.",
    ("dispatched", "stuck"): "The node is stuck: the job is placed anew.",
    ("running", "stuck"): "The node is stuck: the job stays until the node recovers or ends.",
    ("dispatched", "dead"): "The node is dead: a live node rescues the job.",
    ("running", "dead"): "The node is dead: a live node rescues the job.",
}


def _at_node(job: JobView, node: NodeView | None) -> list[str]:
    sentence = _AT_NODE.get((job.status, node.state)) if node else None
    return [sentence] if sentence else []


def _waiting(
    job: JobView, now: int, place: int | None, possible: bool, candidates: list[Candidate]
) -> list[str]:
    since = f"for {max(now - job.waiting_ts, 0) / 1000:.1f} s"
    where = "" if place is None else f", {place} before it in its line"
    if not possible:
        return [
            f"It waits {since}{where}. No registered node could ever do it: start a node that "
            "offers what it asks for, and it goes there."
        ]
    states = Counter(node.obstacle for node in candidates if node.obstacle in NODE_STATES)
    full = states.pop("full", 0)
    others = [f"{number} {state}" for state, number in states.items() if state != "left"]
    if paused := sum(node.obstacle == PAUSED for node in candidates):
        others.append(f"{paused} in a paused pool")
    required = job.line.rpartition("/")[2]
    for_whom = f" for node {required}, which it requires" if required else ""
    return [
        f"It waits {since}{for_whom}{where}: of the nodes that could do it "
        f"{', '.join([f'{full} are full', *others])}, and none has a free slot."
    ]


def _candidates(views: Views, job: JobView, pools: set[str], caps: list[str]) -> list[Candidate]:
    paused = views.paused()
    required = job.line.rpartition("/")[2] if job.line else ""
    found = [
        Candidate(
            node_id=node.node_id,
            taken=node.current_jobs,
            slots=node.max_jobs,
            load={
                name: value
                for name, value in node.load.items()
                if name in ("cpu", "gpu", "mem") and value is not None
            },
            obstacle=_obstacle(node, pools, caps, paused, required),
        )
        for node in views.nodes()
    ]
    return sorted(found, key=lambda node: (_rank(node.obstacle), node.taken / max(node.slots, 1)))


def _rank(obstacle: str) -> int:
    return 0 if not obstacle else 2 if obstacle.startswith(("not in", "lacks")) else 1


def _obstacle(
    node: NodeView, pools: set[str], caps: list[str], paused: set[str], required: str
) -> str:
    """What keeps the job from the node now, the first of all that does."""
    if not can_do(node, pools, ()):
        return f"not in {' or '.join(sorted(pools)) or 'any pool that serves it'}"
    if not can_do(node, pools, caps):
        return f"lacks {', '.join(sorted(set(caps) - set(node.capabilities)))}"
    if not node.takes_jobs:
        return node.state
    if not can_do(node, pools - paused, ()):
        return PAUSED
    if required not in ("", node.node_id):
        return f"it requires {required}"
    return "" if node.is_free else "full"
