"""Finds the node that a command names."""

from __future__ import annotations

from ..core.describe import did_you_mean
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
    hint = did_you_mean(node_id, [node.node_id for node in views.nodes()])
    return Failure(f"there is no node {node_id!r}.{hint or ' minsched nodes shows all nodes.'}")
