"""A node's registration as the arguments of its script."""

from __future__ import annotations

from typing import Any

from .heartbeats import lua_bool
from .models import DESCRIPTION_FIELDS, RegisterNodeRequest


def registration(request: RegisterNodeRequest) -> dict[str, Any]:
    """The arguments of register_node, without the times."""
    pools, capabilities = request.pools, request.capabilities
    return {
        "node_id": request.node_id,
        "instance": request.instance,
        "max_jobs": request.max_jobs,
        "online": lua_bool(request.online),
        "advertised_indexes": "".join(
            f"{pool.id}\t{capability}\n" for pool in pools for capability in ("", *capabilities)
        ),
        "language_pairs": "".join(
            f"{pool.id}\t{src}:{tgt}\n" for pool in pools for src, tgt in pool.langs
        ),
        "concurrency": request.concurrency or request.max_jobs,
        "description": [(name, getattr(request, name)) for name in DESCRIPTION_FIELDS],
    }
