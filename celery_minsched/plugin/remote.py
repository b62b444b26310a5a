"""What ``celery inspect`` and ``celery control`` may ask of a node, and so Flower's API too.

Here and not in ``node_agent``, since those two programs offer only the commands that their own
process knows (celery 5.7, ``celery/bin/control.py``). The node, ``app.node``, answers; a worker of
the application that is no node says so. Nothing here calls Redis: handlers run in the worker's
event loop.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from celery.worker.control import control_command, inspect_command, nok, ok


class Node(Protocol):
    """What a node tells, and what it can be told."""

    def describe(self) -> dict[str, Any]:
        """Its state, for JSON."""

    def drain(self, draining: bool) -> None:
        """Ask the scheduler for no more jobs, or for jobs again. Must not block."""


def _node(state: Any) -> Node | None:
    return cast("Node | None", getattr(state.app, "node", None))


def _no_node(state: Any) -> dict[str, str]:
    answer: dict[str, str] = nok(
        f"{state.hostname} is no node of the scheduler: celery worker runs it, not node-agent"
    )
    return answer


@inspect_command()  # type: ignore[untyped-decorator]
def minsched(state: Any, **_: Any) -> dict[str, Any]:
    """State of the node: slots, jobs held, draining, heard."""
    node = _node(state)
    return node.describe() if node else _no_node(state)


@control_command()  # type: ignore[untyped-decorator]
def minsched_drain(state: Any, **_: Any) -> dict[str, Any]:
    """Give the node no more jobs; what it has it finishes."""
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
