"""Moves a node's messages back to the lists of their jobs, and has the scheduler place the jobs.

A rescuer does this for a dead node, and a node for itself when it stops, is stuck or starts again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from kombu import Connection
from kombu.transport.redis import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import DataError

from celery_minsched.plugin.messages import (
    NO_JSON,
    job_id_of,
    priority_of,
    read_message,
    read_unacked,
    request_of,
)
from celery_minsched.plugin.plugin import MinSched

from .kombu_keys import connection_as
from .placing import by_age
from .slots import Slots

logger = logging.getLogger(__name__)

_PAGE = 100  # messages, or jobs, in one round trip


class _Entry(NamedTuple):
    """A job's message and its place in Redis."""

    job_id: str
    message: dict[str, Any]
    raw: str | bytes  # the text that goes into the job's list
    node_id: str = ""
    tag: str = ""  # of an unacknowledged message
    queue: str = ""  # the list of any other message


def _keep_none(job_id: str) -> bool:
    return False


def park_messages(plugin: MinSched, node_id: str, slots: Slots | None = None) -> Iterator[str]:
    """Move a node's messages, queued and unacknowledged, to the lists of their jobs.

    Yields each job as soon as its message is moved, so an error hides no earlier job. A
    message without a job stays, since a caller sent it to this node. With the ``slots`` of a live
    node, the messages of jobs that run there stay too. Each message is moved in one step, so two
    nodes may do this at a time, and a node may go on where another died.
    """
    keep = slots.stays if slots else _keep_none
    if slots:
        slots.withdraw_acknowledgements()
    with connection_as(plugin.app, node_id) as connection:
        unacked = _read_unacked(plugin, node_id, keep, connection)
        while page := list(islice(unacked, _PAGE)):
            yield from _park(plugin, page)
    for name in ("node_taken", "node_queue"):
        yield from park_queue(plugin, plugin.scheduler.keys(name, node_id), keep)


def park_unacked(plugin: MinSched, node_id: str, tag: str, job_id: str) -> None:
    """Move one unacknowledged message to the list of its job, as it was noted: the worker has
    written into its own copy since.
    """
    scheduler = plugin.scheduler
    entry = scheduler.redis.hget(scheduler.keys("node_unacked", node_id), tag)
    if entry is not None:
        message, _, _ = loads(bytes_to_str(entry))
        list(_park(plugin, [_unacked(node_id, tag, job_id, message)]))


def park_queue(
    plugin: MinSched, queue: str, keep: Callable[[str], bool] = _keep_none
) -> Iterator[str]:
    """Move the messages of a queue, the next ones first, to the lists of their jobs. Yields those
    jobs.
    """
    client: Any = plugin.scheduler.redis
    staying = 0
    # The next message is the last of the list.
    while entries := client.lrange(queue, -staying - _PAGE, -staying - 1):
        page = []
        for raw in reversed(entries):
            message = read_message(raw)
            job_id = job_id_of(message.get("headers"))
            if not job_id or keep(job_id):
                staying += 1
            else:
                page.append(_Entry(job_id, message, raw, queue=queue))
        yield from _park(plugin, page)


def settle(plugin: MinSched, node_id: str, jobs: Iterable[str]) -> tuple[int, int, int]:
    """Place the jobs whose messages were moved, the oldest first, and then the node's other jobs,
    as long as a call places or loses a job.

    Returns how many jobs were placed, how many were lost, and how many the node still has.
    """
    unplaced, placed, lost = by_age(jobs), 0, 0
    while True:
        page, unplaced = unplaced[:_PAGE], unplaced[_PAGE:]
        now_placed, now_lost, left = plugin.scheduler.rescue_node(node_id, page)
        placed, lost = placed + now_placed, lost + now_lost
        if not unplaced and (not left or not (page or now_placed or now_lost)):
            return placed, lost, left


def give_up_queue(plugin: MinSched, node_id: str) -> None:
    """Have other nodes run the jobs whose messages the node's stuck worker has not noted.

    A job that the worker claims meanwhile stays: ``rescue_node`` places no claimed job.
    """
    jobs: list[str] = []
    for name in ("node_taken", "node_queue"):
        jobs += park_queue(plugin, plugin.scheduler.keys(name, node_id))
    if jobs:
        settle(plugin, node_id, jobs)


def take_over(plugin: MinSched, node_id: str) -> None:
    """Place the jobs that an earlier process with this node's id has left. May be called again."""
    if plugin.app.connection_for_read().transport.driver_type == "redis":
        settle(plugin, node_id, park_messages(plugin, node_id))
        return_taken(plugin, node_id)


def return_taken(plugin: MinSched, node_id: str) -> None:
    """Put the messages that this node took, and neither noted nor parked, back into its queue.

    A new process or a new connection of the node calls this before it takes a message.
    """
    client, keys = plugin.scheduler.redis, plugin.scheduler.keys
    taken, queue = keys("node_taken", node_id), keys("node_queue", node_id)
    while client.lmove(taken, queue, "RIGHT", "RIGHT") is not None:
        pass


def _read_unacked(
    plugin: MinSched, node_id: str, keep: Callable[[str], bool], connection: Connection
) -> Iterator[_Entry]:
    """The unacknowledged messages of jobs. Puts a message without a job back into its queue.

    An entry that is not a message stays, marked as acknowledged: the rescue ends, and the error is
    logged once.
    """
    client, keys = plugin.scheduler.redis, plugin.scheduler.keys
    unacked, acked = keys("node_unacked", node_id), keys("node_acked", node_id)
    for field, text in client.hscan_iter(unacked, count=_PAGE):
        tag, message = bytes_to_str(field), read_unacked(text)
        job_id = job_id_of(message.get("headers"))
        if job_id:
            if not keep(job_id):
                yield _unacked(node_id, tag, job_id, message)
        elif not client.sismember(acked, tag) and not (
            message and _restore(connection.default_channel.qos, tag)
        ):
            client.sadd(acked, tag)
            logger.error(
                "field %r of %s is not a message. It stays there and does not run", tag, unacked
            )


def _restore(qos: QoS, tag: str) -> bool:
    """Put a message without a job back into its queue. Returns whether the entry is a message."""
    try:
        qos.restore_by_tag(tag)
    except (*NO_JSON, LookupError, RecursionError, DataError):
        return False
    return True


def _unacked(node_id: str, tag: str, job_id: str, message: dict[str, Any]) -> _Entry:
    """An unacknowledged message, marked as kombu 5.7 marks a message that it restores."""
    with contextlib.suppress(KeyError, TypeError):
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
    return _Entry(job_id, message, dumps(message), node_id, tag)


def _park(plugin: MinSched, page: list[_Entry]) -> Iterator[str]:
    """Move messages to the lists that their jobs' records name. Yields the jobs that were moved.

    If Redis has lost the job's record or its demand, both are read from the message.
    """
    scheduler = plugin.scheduler
    calls = [
        (
            *(entry.job_id, entry.raw, scheduler.keys.priority_suffix(priority_of(entry.message))),
            *(entry.node_id, entry.tag, entry.queue),
        )
        for entry in page
    ]
    for entry, outcome in zip(page, scheduler.park_messages(calls), strict=True):
        if outcome == "incomplete":
            scheduler.repair_job(request_of(entry.message), entry.job_id)
        if outcome in ("parked", "incomplete"):
            yield entry.job_id
