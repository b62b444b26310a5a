"""Explains why a task is at its node or waits, from its record and the present fleet."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from pydantic import BaseModel

from ..core.demand import Demand
from ..core.describe import demand_in_words
from ..core.field_types import RESOURCES
from ..core.job_fields import STORED_NAMES
from ..core.lua_source import number
from ..core.printing import duration
from .lines import parse_line
from .models import NODE_STATES, JobView, NodeView
from .nodes import can_run
from .possible import is_possible, pools_of
from .queries import Views

#: The parts of a load order.
_MOST_SHARE: Final = number("node", "MOST_SHARE")
_LOAD_RANGE: Final = number("node", "LOAD_RANGE")
_LAST_CHOSEN_RANGE: Final = number("node", "LAST_CHOSEN_RANGE")
_LOAD_LEVELS: Final = ("low", "medium", "high")

_DEMAND: Final = Demand.model_fields
#: Fields of a demand that are in its pool selector, or have words of their own.
_NOT_SHOWN: Final = ("src_lang", "tgt_lang", "capabilities", "fairness_key")

#: The obstacle of a node whose pools that fit are all paused.
PAUSED: Final = "in a paused pool"

#: The most nodes that a sentence names.
_MOST_NAMES: Final = 5


class Candidate(BaseModel):
    """A node, and what prevents it from running the job now."""

    node_id: str
    taken: int
    slots: int
    load: dict[str, float]
    #: "" if the node can run the job now.
    obstacle: str


class Explanation(BaseModel):
    """Why a task is at its node or waits."""

    task_id: str
    job: JobView | None
    #: The demand in words.
    demand: str
    #: Sentences in the order of events.
    story: list[str]
    #: ``placed``, ``waiting``, ``impossible``, ``delayed``, ``ended``, ``lost``, ``unknown``, or
    #: ``broken`` if the job's record is unreadable.
    verdict: str
    #: The number of jobs before it in its line, or ``None`` if it is in no line.
    place_in_line: int | None = None
    #: The registered nodes, beginning with those that can run the job.
    candidates: list[Candidate] = []


def why(views: Views, task_id: str, most_candidates: int = 20) -> Explanation:
    """Explain the latest job of a task."""
    job = views.job_of_task(task_id)
    if job is None:
        return Explanation(
            task_id=task_id,
            job=None,
            demand="",
            verdict="unknown",
            story=[
                f"The scheduler does not know task {task_id!r}. Either the scheduler never "
                "dispatched it, because it has no demand or its caller chose a queue. Or it ended "
                "more than minsched_history_ttl ago."
            ],
        )
    place = views.place_in_line(job) if job.status == "waiting" else None
    possible = is_possible(views.reader, job.where, job.capabilities)
    candidates = _candidates(views, job)
    now = views.now()
    present = (
        _waiting(job, now, place, possible, candidates)
        if job.status == "waiting"
        else _present(job, now, views.node(job.node_id))
    )
    return Explanation(
        task_id=task_id,
        job=job,
        demand=_demand(job),
        verdict=_verdict(job, possible),
        story=[*_past(job), *present],
        place_in_line=place,
        candidates=candidates[:most_candidates],
    )


def _demand(job: JobView) -> str:
    others = {
        field.replace("_", " "): value
        for field, name in STORED_NAMES.items()
        if field not in _NOT_SHOWN and (value := getattr(job, name)) != _DEMAND[field].default
    }
    return demand_in_words(job.where, job.capabilities, others)


def _verdict(job: JobView, possible: bool) -> str:
    if job.status == "waiting":
        return "waiting" if possible else "impossible"
    if job.has_slot:
        return "placed"
    return "ended" if job.status in ("finished", "failed", "parked") else job.status


def _past(job: JobView) -> list[str]:
    """The reason for the choice of the job's node, in sentences."""
    story = []
    if job.rescues == 1:
        story.append("It was rescued, because a node died while it ran the job.")
    elif job.rescues:
        story.append(f"It was rescued, because {job.rescues} nodes died while they ran the job.")
    if job.from_node:
        story.append(f"It was at node {job.from_node} before. That node died or handed it back.")
    if not job.dispatched_ts or not job.node_id:
        return story
    node = f"It went to node {job.node_id}"
    choices = {
        "preferred": f"{node}: its caller prefers this node, and the node had a free slot.",
        "sticky": f"{node}: the last job of its session ran there, and the node had a free slot.",
        "first_free": f"{node} after {duration(job.waited_ms)} in line. This node was the first in "
        f"pool {job.pool} that had a free slot and could run it.",
        "least_loaded": f"{node}, the least loaded node with a free slot in pool {job.pool}.",
    }
    if job.chosen_by in choices:
        story.append(choices[job.chosen_by])
    if job.chosen_by == "least_loaded" and job.decision:
        story.append(_decision(job))
    if job.session_node:
        story.append(
            f"Its session moved away from node {job.session_node}, because that node had no free "
            "slot or took no jobs."
        )
    return story


def _decision(job: JobView) -> str:
    free, order, *second = job.decision.split(" ")
    chosen = f"{job.node_id} had {_order(order)}."
    if int(free) == 1:
        return f"No other node of the pool had a free slot. {chosen}"
    text = f"{free} nodes had a free slot. {chosen}"
    return f"{text} The next best, {second[0]}, had {_order(second[1])}." if second else text


def _order(order: str) -> str:
    share, rest = divmod(int(float(order)), _LOAD_RANGE * _LAST_CHOSEN_RANGE)
    load = _LOAD_LEVELS[min(rest // _LAST_CHOSEN_RANGE, len(_LOAD_LEVELS) - 1)]
    return f"{share / _MOST_SHARE:.0%} of its slots taken and a {load} load"


def _present(job: JobView, now: int, node: NodeView | None) -> list[str]:
    """The present state of a job that does not wait. ``node`` is the job's node."""
    if job.broken:
        return [f"Its record is unreadable: {job.broken}. minsched check shows the remedy."]
    if job.status == "parked":
        return [f"It was {job.reason}. The next node that sends a heartbeat reports this."]
    if job.status == "delayed":
        return [
            f"It is delayed and due in {duration(job.due_ts - now)}. Until then it holds no slot."
        ]
    if job.status == "dispatched":
        return [f"It has a slot of node {job.node_id} and has not begun.", *_at_node(job, node)]
    if job.status == "running":
        return [f"It has been running for {duration(now - job.started_ts)}.", *_at_node(job, node)]
    reason = f": {job.reason}" if job.reason else ""
    return [f"It {'is lost' if job.status == 'lost' else job.status}{reason}."]


_RESCUED: Final = "The node is dead. A live node rescues the job."

#: The effect of the node's state on the job.
_AT_NODE: Final = {
    ("dispatched", "stopping"): "The node is stopping. It hands the job back, and the job goes to "
    "another node.",
    ("running", "stopping"): "The node is stopping. It finishes the job and leaves.",
    ("dispatched", "stuck"): "The node is stuck. The job goes to another node.",
    ("running", "stuck"): "The node is stuck. The job stays there until the node recovers or ends.",
    ("dispatched", "dead"): _RESCUED,
    ("running", "dead"): _RESCUED,
}


def _at_node(job: JobView, node: NodeView | None) -> list[str]:
    sentence = _AT_NODE.get((job.status, node.state)) if node else None
    return [sentence] if sentence else []


def _waiting(
    job: JobView, now: int, place: int | None, possible: bool, candidates: list[Candidate]
) -> list[str]:
    ahead = f", {place} {'job' if place == 1 else 'jobs'} ahead of it" if place else ""
    story = [f"Waiting for {duration(now - job.waiting_ts)}{ahead}."]
    if required := parse_line(job.line).required_node:
        story.append(f"It requires node {required}.")
    if possible:
        return [*story, _obstacles(candidates)]
    return [
        *story,
        "No registered node can run it. Start a node that offers what the job asks for.",
    ]


def _obstacles(candidates: list[Candidate]) -> str:
    """The states of the nodes that can run the job, as a sentence."""
    by_state: dict[str, list[str]] = defaultdict(list)
    for node in candidates:
        state = node.obstacle or "free"
        if state != "left" and (state in NODE_STATES or state == PAUSED):
            by_state[state].append(node.node_id)
    if not by_state:
        return "All nodes that can run it have left."
    [state, nodes], *others = by_state.items()
    if others:
        total = sum(map(len, by_state.values()))
        *parts, last = [
            f"{len(nodes)} {_is(nodes)} {state}{_names(nodes)}" for state, nodes in by_state.items()
        ]
        return f"Of the {total} nodes that can run it, {', '.join(parts)} and {last}."
    if len(nodes) == 1:
        return f"The only node that can run it{_names(nodes)} is {state}."
    every = "Both" if len(nodes) == 2 else f"All {len(nodes)}"
    return f"{every} nodes that can run it{_names(nodes)} are {state}."


def _is(nodes: list[str]) -> str:
    return "is" if len(nodes) == 1 else "are"


def _names(nodes: list[str]) -> str:
    return f" ({', '.join(sorted(nodes))})" if len(nodes) <= _MOST_NAMES else ""


def _candidates(views: Views, job: JobView) -> list[Candidate]:
    pools, paused = pools_of(views.reader, job.where), views.paused()
    required = parse_line(job.line).required_node
    candidates = [
        Candidate(
            node_id=node.node_id,
            taken=node.current_jobs,
            slots=node.max_jobs,
            load={
                name: value
                for name, value in node.load.items()
                if name in RESOURCES and value is not None
            },
            obstacle=_obstacle(node, job, pools, paused, required),
        )
        for node in views.nodes()
    ]
    return sorted(
        candidates, key=lambda node: (_rank(node.obstacle), node.taken / max(node.slots, 1))
    )


def _rank(obstacle: str) -> int:
    return 0 if not obstacle else 2 if obstacle.startswith(("not in", "lacks")) else 1


def _obstacle(
    node: NodeView, job: JobView, pools: set[str], paused: set[str], required: str
) -> str:
    """The first obstacle that prevents the node from running the job now, "" for none."""
    if not can_run(node, pools, ()):
        return f"not in {' or '.join(sorted(pools)) or 'any pool that serves it'}"
    if not can_run(node, pools, job.capabilities):
        return f"lacks {', '.join(sorted(set(job.capabilities) - set(node.capabilities)))}"
    if not node.takes_jobs:
        return node.state
    if not can_run(node, pools - paused, ()):
        return PAUSED
    if required not in ("", node.node_id):
        return f"it requires {required}"
    return "" if node.is_free else "full"
