"""``celery minsched drain`` and ``undrain``. A second call changes nothing."""

from __future__ import annotations

import click

from ..core.errors import UnknownNode
from .lookup import find_node, no_such_node
from .options import json_option, plugin
from .output import console, plural, print_json


@click.command()
@click.argument("node_id", metavar="NODE")
@json_option
def drain(node_id: str, as_json: bool) -> None:
    """Give a node no new jobs. The node finishes the jobs that it has.

    The node stays drained until undrain, also over a restart.
    """
    jobs = _set_draining(node_id, True)
    if as_json:
        return print_json(find_node(plugin().views, node_id))
    rest = f"It has {plural(jobs, 'job')} to finish." if jobs else "It has no job."
    return console().print(f"Node {node_id} takes no new jobs. {rest}")


@click.command()
@click.argument("node_id", metavar="NODE")
@json_option
def undrain(node_id: str, as_json: bool) -> None:
    """Give a drained node jobs again. Waiting jobs take its free slots at once."""
    _set_draining(node_id, False)
    node = find_node(plugin().views, node_id)
    if as_json:
        return print_json(node)
    if node.online:
        return console().print(f"Node {node_id} takes jobs again.")
    return console().print(
        f"Node {node_id} is not drained any more. It is {node.state} now, and takes jobs again "
        "when it is back."
    )


def _set_draining(node_id: str, draining: bool) -> int:
    """Drain or undrain the node. Returns the number of its jobs."""
    scheduler = plugin()
    try:
        return scheduler.scheduler.drain_node(node_id, draining)
    except UnknownNode:
        raise no_such_node(scheduler.views, node_id) from None
