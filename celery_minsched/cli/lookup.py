"""Finds the node that a command names."""

from __future__ import annotations

from difflib import get_close_matches

from ..monitor.models import NodeView
from ..monitor.queries import Views
from .command import Failure


def find_node(views: Views, node_id: str) -> NodeView:
    """A registered node. Raises :class:`Failure`."""
    node = views.node(node_id)
    if node is None:
        raise no_such_node(views, node_id)
    return node


def no_such_node(views: Views, node_id: str) -> Failure:
    """The error for a node that is not registered. Names the most similar node."""
    matches = get_close_matches(node_id, [node.node_id for node in views.nodes()], n=1)
    hint = f"Did you mean {matches[0]}?" if matches else "minsched nodes shows all nodes."
    return Failure(f"there is no node {node_id!r}. {hint}")
