"""Commands of a node for ``celery inspect`` and ``celery control``, and so for Flower's API.

These programs offer only the commands that their own process has loaded (celery 5.7,
``celery/bin/control.py``), so the commands are here and not in ``node_agent``. The node,
``app.node``, answers. A worker that is not a node answers with an error. A handler runs in the
worker's event loop, so none calls Redis.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from celery.worker.control import control_command, inspect_command, nok, ok


class Node(Protocol):
    """What the commands need of a node."""

    def describe(self) -> dict[str, Any]:
        """The node's state, for JSON."""

    def drain(self, draining: bool) -> None:
        """Stop or resume asking the scheduler for jobs. Must not block."""


def _node(state: Any) -> Node | None:
    return cast("Node | None", getattr(state.app, "node", None))


def _no_node(state: Any) -> dict[str, str]:
    answer: dict[str, str] = nok(
        f"{state.hostname} is not a node of the scheduler: celery worker runs it, not node-agent"
    )
    return answer


@inspect_command()  # type: ignore[untyped-decorator]
def minsched(state: Any, **_: Any) -> dict[str, Any]:
    """State of the node: slots, jobs held, draining, last heartbeat."""
    node = _node(state)
    return node.describe() if node else _no_node(state)


@control_command()  # type: ignore[untyped-decorator]
def minsched_drain(state: Any, **_: Any) -> dict[str, Any]:
    """Give the node no more jobs. It finishes the jobs that it has."""
    return _drain(state, True, "takes no more jobs in a moment")


@control_command()  # type: ignore[untyped-decorator]
def minsched_undrain(state: Any, **_: Any) -> dict[str, Any]:
    """Give the drained node jobs again."""
    return _drain(state, False, "takes jobs again in a moment")


def _drain(state: Any, draining: bool, answer: str) -> dict[str, Any]:
    node = _node(state)
    if node is None:
        return _no_node(state)
    node.drain(draining)
    return dict(ok(answer))
