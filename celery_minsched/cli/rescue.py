"""``celery minsched rescue``. A second call changes nothing."""

from __future__ import annotations

from collections import Counter

import click
from pydantic import BaseModel

from ..core.errors import NodeIdInUse, UnknownNode
from ..core.printing import duration
from ..monitor.models import JobView, NodeView
from ..monitor.queries import Views
from .command import Command, ExitCode, Failure
from .lookup import find_node, no_such_node
from .options import json_option, plugin, timeout_option
from .output import console, plural, print_json
from .waiting import poll


class Rescue(BaseModel):
    """The result of a rescue."""

    node_id: str
    #: False if the rescue was not complete at the timeout, or if no node is alive.
    rescued: bool
    #: The jobs that held slots of the node, in their new states.
    jobs: list[JobView]


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "Each job of the node has a slot at another node, waits, or is lost.",
        ExitCode.NOT_DONE: "The rescue is not complete. Live nodes continue the rescue.",
    },
)
@click.argument("node_id", metavar="NODE")
@timeout_option("Wait this many seconds for the rescue.")
@json_option
@click.pass_context
def rescue(context: click.Context, node_id: str, timeout: float, as_json: bool) -> None:
    """Rescue the jobs of a dead node now.

    Without this command, live nodes rescue the jobs when the last heartbeat is older than
    minsched_node_ttl. Use the command if you know earlier that the node is dead. If the node sent a
    heartbeat in the last two intervals, the command changes nothing and prints the state of the
    node.
    """
    scheduler = plugin()
    views = scheduler.views
    job_ids = [job.job_id for job in views.jobs_at(node_id)]
    try:
        scheduler.scheduler.declare_dead(node_id)
    except UnknownNode:
        raise no_such_node(views, node_id) from None
    except NodeIdInUse as exc:
        age = duration(int(str(exc.values["age_ms"])))
        raise Failure(_refusal(find_node(views, node_id), age)) from None
    problem = _wait_for_rescue(views, node_id, timeout)
    jobs = [job for job_id in job_ids if (job := views.job(job_id))]
    if as_json:
        print_json(Rescue(node_id=node_id, rescued=not problem, jobs=jobs))
    else:
        console().print(_summary(node_id, views.node(node_id), jobs, problem))
    context.exit(ExitCode.NOT_DONE if problem else ExitCode.DONE)


def _refusal(node: NodeView, age: str) -> str:
    """The reason why a node that sends heartbeats is not rescued, and the effect on its jobs."""
    state = node.state if node.state in ("stopping", "stuck") else "alive"
    heartbeat = f"node {node.node_id!r} is {state}: its last heartbeat was {age} ago."
    jobs = plural(node.current_jobs, "job")
    if node.state == "stopping":
        return (
            f"{heartbeat} It finishes {jobs} and leaves. Jobs that have not begun are placed "
            "again. To end the node sooner, kill its process."
        )
    if node.state == "stuck":
        return (
            f"{heartbeat} Its worker does not work. It has {jobs}. Jobs that have not begun are "
            "placed again. Jobs that have begun stay until the node recovers or ends. To have "
            "them rescued, kill its process."
        )
    return f"{heartbeat} Drain it with minsched drain {node.node_id}, or stop its process first."


def _wait_for_rescue(views: Views, node_id: str, timeout: float) -> str:
    """Wait until live nodes have rescued all jobs. Returns the obstacle, or ""."""
    for _ in poll(timeout):
        if not views.is_rescue_pending(node_id):
            return ""
        if not any(node.online for node in views.nodes()):
            return "No live node can rescue them now. The next node that starts will do it."
    return f"After {timeout:g} s the rescue is not complete. Live nodes continue the rescue."


def _summary(node_id: str, node: NodeView | None, jobs: list[JobView], problem: str) -> str:
    state = "has left" if node and node.state == "left" else "is dead"
    text = f"Node {node_id} {state}. It had {plural(len(jobs), 'job')}"
    if problem:
        return f"{text}. {problem}"
    counts = Counter(job.status for job in jobs)
    statuses = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    return f"{text}, now {statuses}." if statuses else f"{text}."
