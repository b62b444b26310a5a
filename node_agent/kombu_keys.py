"""Where kombu notes the unacknowledged messages of a node: under keys of that node."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Connection

from celery_minsched.core.keys import QUEUES

_NEVER = 10 * 365 * 86400  # seconds


def transport_options(app: Celery, node_id: str) -> dict[str, Any]:
    """kombu's transport options for a node. No message of the node becomes visible again by age."""
    return {
        **app.conf.broker_transport_options,
        "unacked_key": QUEUES["node_unacked"].format(node_id),
        "unacked_index_key": QUEUES["node_unacked_index"].format(node_id),
        "unacked_mutex_key": QUEUES["node_unacked_mutex"].format(node_id),
        "visibility_timeout": _NEVER,
    }


def connection_as(app: Celery, node_id: str) -> Connection:
    """A connection to the broker whose channels use the keys of this node."""
    options = transport_options(app, node_id)
    connection: Connection = app.connection_for_read(transport_options=options)
    return connection
