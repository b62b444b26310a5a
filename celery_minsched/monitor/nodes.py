"""Reads nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..core.reading import Reader, pages
from ..core.settings import Settings
from ..core.stored import Command, ask_each, is_wrong_type
from ..core.texts import text_or_none
from ..core.times import settings_of_fleet
from .models import NodeView
from .node_record import NODE_FIELDS, read_node, unreadable_node


def node_scores(reader: Reader) -> dict[str, float]:
    """The ids of the registered nodes. The score of a node that a script found dead is negative."""
    return {node_id: float(score) for node_id, score in reader.items("ZSCAN", "nodes")}


def nodes(reader: Reader, settings: Settings) -> list[NodeView]:
    """All registered nodes by id. A dead node is registered until its rescue has ended."""
    every = read_nodes(reader, settings, node_scores(reader))
    return sorted(every, key=lambda node: node.node_id)


def node(reader: Reader, settings: Settings, node_id: str) -> NodeView | None:
    """A node by its id."""
    score = reader.ask_one("ZSCORE", reader.keys("nodes"), node_id)
    return next(read_nodes(reader, settings, {node_id: score or 0}), None)


def is_rescue_pending(reader: Reader, node_id: str) -> bool:
    """Does the node's rescue wait for a live node?"""
    return reader.ask_one("ZSCORE", reader.keys("rescues"), node_id) is not None


def read_nodes(
    reader: Reader, settings: Settings, scores: Mapping[str, float]
) -> Iterator[NodeView]:
    """The nodes of these ids that have a record. ``scores`` are those of :func:`node_scores`."""
    for page in pages(scores):
        commands: list[Command] = [("GET", reader.keys("times")), ("TIME",)]
        for node_id in page:
            commands += (
                ("HMGET", reader.keys("node_info", node_id), *NODE_FIELDS),
                ("HGET", reader.keys("node_runtime", node_id), "current_jobs"),
            )
        times, (seconds, microseconds), *answers = ask_each(reader.redis, commands)
        fleet = None if is_wrong_type(times) else text_or_none(times)
        node_ttl = settings_of_fleet(settings, fleet).node_ttl
        oldest_heartbeat = 1000 * (seconds + microseconds / 1e6 - node_ttl)
        for node_id, info, current_jobs in zip(page, answers[::2], answers[1::2], strict=True):
            if is_wrong_type(info) or is_wrong_type(current_jobs):
                yield unreadable_node(node_id, "its record is not a hash")
                continue
            record = dict(zip(NODE_FIELDS, map(text_or_none, info), strict=True))
            if any(value is not None for value in record.values()):
                found_dead, jobs = scores[node_id] < 0, text_or_none(current_jobs)
                yield read_node(node_id, record, jobs, found_dead, oldest_heartbeat)


def can_run(node: NodeView, pools: Iterable[str], capabilities: Iterable[str]) -> bool:
    """Is the node in one of the pools, with all the capabilities?"""
    return bool(set(pools) & set(node.pools)) and set(capabilities) <= set(node.capabilities)
