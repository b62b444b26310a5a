"""The scheduler's errors: one class for each code that a script can answer.

An error has the ``code``, the ``values`` of its text, and a sentence with the remedy.
"""

from __future__ import annotations

from typing import ClassVar

from .printing import printable


class SchedulerError(Exception):
    """Base of all errors of the scheduler.

    Its text is printable, even if a value is unprintable.
    """

    code: ClassVar[str] = "SCHEDULER_ERROR"
    sentence: ClassVar[str] = "{message}"

    def __init__(self, **values: object) -> None:
        self.values = values
        text = f"{self.code}: {self.sentence.format_map(values)}"
        super().__init__(printable(text, keep="\n"))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.values)


def _rebuild(cls: type[SchedulerError], values: dict[str, object]) -> SchedulerError:
    return cls(**values)


class NoPoolForLangPair(SchedulerError):
    """No pool serves the language pair, or the requested pool does not."""

    code = "NO_POOL_FOR_LANG_PAIR"
    sentence = (
        "{where} serves the language pair {src_lang!r} to {tgt_lang!r}. Start a node that does "
        "(node-agent --pool POOL --lang {src_lang}:{tgt_lang}) or map the pair to a pool with "
        "set_language_pools({src_lang!r}, {tgt_lang!r}, [POOL])."
    )


class EmptyPool(SchedulerError):
    """The pool has no node, or no node with the requested capabilities."""

    code = "EMPTY_POOL"
    sentence = (
        "no node {with_capability}is registered in pool {pool!r}. Check the pool's name, or start "
        "a node that offers it (node-agent --pool {pool}{flags})."
    )


class NoAvailableNode(SchedulerError):
    """Every node that can run the job is full, draining or offline."""

    code = "NO_AVAILABLE_NODE"
    sentence = (
        "every node that can run it ({demand}) is full, draining or offline. Try again later, "
        "add a node, or give the nodes more slots."
    )


class Backlogged(SchedulerError):
    """The line for this demand has reached its maximum length."""

    code = "BACKLOGGED"
    sentence = (
        "{waiting} jobs wait for the same demand ({demand}), and minsched_max_waiting allows no "
        "more. Nothing was sent. Try again later, add a node, or raise minsched_max_waiting."
    )


class NodeMismatch(SchedulerError):
    """The job belongs to another node."""

    code = "NODE_MISMATCH"
    sentence = (
        "job {job_id!r} belongs to node {owner!r}, not to {node_id!r}: the scheduler gave it to "
        "another node meanwhile. Nothing was changed. Drop the result."
    )


class UnknownNode(SchedulerError):
    """The node is not registered, or another process has its id now."""

    code = "UNKNOWN_NODE"
    sentence = "node {node_id!r} is not registered by this process. Call register_node first."


class UnknownJob(SchedulerError):
    """There is no record of the job."""

    code = "UNKNOWN_JOB"
    sentence = (
        "there is no job {job_id!r}. Its record lapsed, or dispatch_task never returned this id."
    )


class NodeIdInUse(SchedulerError):
    """Another process is a live node with this id."""

    code = "NODE_ID_IN_USE"
    sentence = (
        "node id {node_id!r} is held by {holder}, whose last heartbeat was {age_ms} ms ago. "
        "Give this node another id, or stop the other process first."
    )


class WrongLayout(SchedulerError):
    """A version with another layout wrote the state in Redis."""

    code = "WRONG_LAYOUT"
    sentence = (
        "the state in Redis has layout {found} (see {key}), and this version has layout {layout}. "
        "{remedy}"
    )


class InvalidDemand(SchedulerError, ValueError):
    """An invalid demand: an unknown key, or a wrong value."""

    code = "INVALID_DEMAND"
    sentence = "{message}"
