"""The commands that act. Each may be given twice."""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches

import click
from pydantic import BaseModel

from ..core.errors import EmptyPool, NodeIdInUse, UnknownNode
from ..monitor.models import JobView, NodeView
from ..monitor.queries import Views
from ..plugin.plugin import MinSched
from .command import Command, ExitCode, Failure
from .common import console, duration, json_option, plugin, plural, print_json
from .waiting import poll, timeout_option


@click.command()
@click.argument("node_id", metavar="NODE")
@json_option
def drain(node_id: str, as_json: bool) -> None:
    """Give a node no more jobs. What it has it finishes.

    It stays so, over a restart of the node too, until undrain.
    """
    _drain(node_id, True, as_json)


@click.command()
@click.argument("node_id", metavar="NODE")
@json_option
def undrain(node_id: str, as_json: bool) -> None:
    """Give a drained node jobs again; those that wait for a slot take its slots at once."""
    _drain(node_id, False, as_json)


def _drain(node_id: str, draining: bool, as_json: bool) -> None:
    scheduler = plugin()
    try:
        taken = scheduler.scheduler.drain_node(node_id, draining)
    except UnknownNode:
        raise _no_such_node(node_id, scheduler.views) from None
    node = _node(node_id, scheduler.views)
    if as_json:
        return print_json(node)
    if draining:
        rest = f"{plural(taken, 'job')} to finish" if taken else "it has none left"
        return console().print(f"Node {node_id} takes no more jobs; {rest}.")
    when = "" if node.online else f" once it is back; it is {node.state} now"
    return console().print(f"Node {node_id} takes jobs again{when}.")


@click.command()
@click.argument("pool")
@json_option
def pause(pool: str, as_json: bool) -> None:
    """Start no more jobs in a pool: they wait. What runs there goes on."""
    scheduler = plugin()
    scheduler.scheduler.pause_pool(pool)
    view = scheduler.views.pool(pool)
    if as_json:
        return print_json(view)
    return console().print(
        f"Pool {pool} is paused: {plural(view.taken + view.leaving, 'job')} at its nodes, and "
        f"{plural(view.waiting, 'job')} in line."
    )


@click.command()
@click.argument("pool")
@json_option
def resume(pool: str, as_json: bool) -> None:
    """Start jobs in a paused pool again; those that wait take its slots at once."""
    scheduler = plugin()
    was_paused = pool in scheduler.views.paused()
    if not was_paused and not scheduler.views.pool(pool).nodes:
        raise EmptyPool(pool=pool, with_capability="", flags="")
    scheduler.scheduler.pause_pool(pool, paused=False)
    view = scheduler.views.pool(pool)
    if as_json:
        return print_json(view)
    return console().print(
        f"Pool {pool} goes on: {plural(view.taken + view.leaving, 'job')} at its nodes, and "
        f"{plural(view.waiting, 'job')} in line."
        if was_paused
        else f"Pool {pool} was not paused."
    )


class Rescue(BaseModel):
    """What came of a rescue."""

    node_id: str
    #: False where nobody alive has seen to the node's jobs in time.
    rescued: bool
    #: The jobs that held its slots, as they are now.
    jobs: list[JobView]


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "All jobs of the node have another place: a node, a line, or lost.",
        ExitCode.NOT_DONE: "The rescue is not complete. Live nodes go on with it.",
    },
)
@click.argument("node_id", metavar="NODE")
@timeout_option("Seconds to wait for the rescue.")
@json_option
def rescue(node_id: str, timeout: float, as_json: bool) -> None:
    """Have the jobs of a node that is gone placed anew, now.

    Live nodes do so by themselves, once the node was silent for minsched_node_ttl. An operator who
    knows that the node is gone need not wait. A node that sent a heartbeat in the last two
    intervals is left alone, and the command says what the node does.
    """
    scheduler = plugin()
    views = scheduler.views
    held = [job.job_id for job in views.jobs_at(node_id)]
    try:
        scheduler.scheduler.declare_dead(node_id)
    except UnknownNode:
        raise _no_such_node(node_id, views) from None
    except NodeIdInUse as exc:
        age = duration(int(str(exc.values["age_ms"])))
        raise Failure(_why_no_rescue(_node(node_id, views), age)) from None
    trouble = _await_rescue(scheduler, node_id, timeout)
    jobs = [job for job_id in held if (job := views.job(job_id))]
    node = views.node(node_id)
    if as_json:
        print_json(Rescue(node_id=node_id, rescued=not trouble, jobs=jobs))
    else:
        console().print(_in_words(node_id, node, jobs, trouble))
    click.get_current_context().exit(ExitCode.NOT_DONE if trouble else ExitCode.DONE)


def _why_no_rescue(node: NodeView, age: str) -> str:
    """What becomes of the jobs of a node that sends heartbeats."""
    verb = f"is {node.state}" if node.state in ("stopping", "stuck") else "lives"
    said = f"node {node.node_id!r} {verb}: its last heartbeat was {age} ago."
    jobs = plural(node.current_jobs, "job")
    if node.state == "stopping":
        return (
            f"{said} It finishes {jobs} and leaves. Jobs that it had not begun are placed anew. To "
            "end it sooner, kill its process."
        )
    if node.state == "stuck":
        return (
            f"{said} Its worker does not work. It has {jobs}. Jobs that it has not begun are "
            "placed anew. Jobs that have begun stay until it recovers or ends. To have them "
            "rescued, kill its process."
        )
    return f"{said} Take it out with minsched drain {node.node_id}, or stop its process first."


def _await_rescue(scheduler: MinSched, node_id: str, timeout: float) -> str:
    """Wait until a live node has seen to it; what went wrong, "" for nothing."""
    views = scheduler.views
    for _ in poll(timeout):
        if not views.is_rescue_pending(node_id):
            return ""
        if not _is_anyone_alive(scheduler):
            return "No live node is there to see to them; the next that starts will."
    return f"They are not all seen to after {timeout:g} s; live nodes go on with it."


def _is_anyone_alive(scheduler: MinSched) -> bool:
    return any(node.online for node in scheduler.views.nodes())


def _in_words(node_id: str, node: NodeView | None, jobs: list[JobView], trouble: str) -> str:
    counts = Counter(job.status for job in jobs)
    became = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    is_dead = "has left" if node and node.state == "left" else "is dead"
    said = f"Node {node_id} {is_dead}. It had {plural(len(jobs), 'job')}"
    if trouble:
        return f"{said}. {trouble}"
    return f"{said}{f', now {became}' if became else ''}."


def _node(node_id: str, views: Views) -> NodeView:
    node = views.node(node_id)
    if node is None:
        raise _no_such_node(node_id, views)
    return node


def _no_such_node(node_id: str, views: Views) -> Failure:
    """For a name that is no node's."""
    close = get_close_matches(node_id, [node.node_id for node in views.nodes()], n=1)
    hint = f"Did you mean {close[0]}?" if close else "minsched nodes lists those there are."
    return Failure(f"there is no node {node_id!r}. {hint}")
