"""What a node leaves behind, and how another (or the same, started again) sees to it.

A node's unacknowledged messages lie under keys of its own, and each names its job's own list as
its place (:class:`NodeQoS`): putting one back parks it, and the scheduler places the job anew. A
message that was acknowledged before its job ended stays there, marked, until the job ends: if the
node dies, the caller gets an error (:mod:`node_agent.lost_jobs`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from time import time
from typing import Any, NamedTuple

from celery import Celery
from kombu import Connection
from kombu.transport.redis import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import DataError, NoScriptError, ResponseError

from celery_minsched.core.keys import QUEUES, job_queue_name
from celery_minsched.plugin.messages import (
    NO_JSON,
    job_id_of,
    priority_of,
    read_message,
    read_unacked,
    request_of,
)
from celery_minsched.plugin.plugin import MinSched

from .slots import Slots, by_age

logger = logging.getLogger(__name__)

_NEVER = 10 * 365 * 86400  # seconds
_PAGE = 100  # messages, or jobs, in one round trip


def transport_options(app: Celery, node_id: str) -> dict[str, Any]:
    """kombu's transport options by which a node's unacknowledged messages are its own, for life."""
    return {
        **app.conf.broker_transport_options,
        "unacked_key": QUEUES["node_unacked"].format(node_id),
        "unacked_index_key": QUEUES["node_unacked_index"].format(node_id),
        "unacked_mutex_key": QUEUES["node_unacked_mutex"].format(node_id),
        "visibility_timeout": _NEVER,
    }


class NodeQoS(QoS):
    """kombu's book of unacknowledged messages, in which a job's message belongs to its own list.

    Whatever puts it back there (a requeue, a shutdown, a lost connection, a rescue) so parks it.
    """

    #: :func:`park_messages` sees to what is left in it, also at a shutdown. kombu's (5.7) own way
    #: ends the worker with an AttributeError when the connection is cut while a late task runs.
    restore_at_shutdown = False

    app: Celery
    node_id: str
    #: Key of the set of messages that were acknowledged while their jobs go on.
    acked_key: str
    #: Key of the list of the message that was taken and is not in this book yet.
    taken_key: str
    slots: Slots
    #: Is a job claimed in the step that notes its message?
    claims: bool

    def append(self, message: Any, delivery_tag: str) -> None:
        """As kombu's (5.7), but for the place; and the message leaves the list of those taken, and
        its job is claimed, in the same round trip.
        """
        job_id = job_id_of(message.headers)
        delivered = message.delivery_info
        place = ("", job_queue_name(job_id)) if job_id else _place_of(delivered)
        with self.pipe_or_acquire(client=self.channel.notes) as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: time()})
            pipe.hset(self.unacked_key, delivery_tag, dumps([message._raw, *place]))
            if self.channel.taken:
                pipe.lrem(self.taken_key, 1, self.channel.taken)
            hold = self.slots.hold_of(job_id, delivery_tag)
            if hold and hold.is_acknowledged and not hold.has_ended:  # Redis may have lost that
                pipe.sadd(self.acked_key, delivery_tag)
            if job_id and self.claims and job_id not in self.slots.held:
                self._claim(pipe, job_id, delivery_tag)
            else:
                pipe.execute()
        self.channel.taken = None
        super(QoS, self).append(message, delivery_tag)

    def _claim(self, pipe: Any, job_id: str, delivery_tag: str) -> None:
        """Execute ``pipe`` with a claim of the job."""
        on_answer = self.slots.claim_in(pipe, job_id, delivery_tag)
        try:
            *noted, answer = pipe.execute(raise_on_error=False)
            if refused := next((one for one in noted if isinstance(one, Exception)), None):
                raise refused
        except BaseException:
            self.slots.forget(job_id)
            raise
        if isinstance(answer, NoScriptError):
            # At once, and not by the courier: a message that comes meanwhile must not overtake.
            on_answer = self.slots.claim_in(pipe, job_id, delivery_tag, load=True)
            answer = pipe.execute(raise_on_error=False)[-1]
        on_answer(answer)

    def ack(self, delivery_tag: str) -> None:
        message = self._delivered.get(delivery_tag)
        job_id = job_id_of(message.headers) if message else ""
        hold = self.slots.hold_of(job_id, delivery_tag)
        if hold is None:
            with self._reachable() as book:
                book._remove_from_indices(delivery_tag).execute()
        # Its message goes in the step that frees its slot; until then a rescuer finds it.
        elif not hold.has_ended and not hold.is_acknowledged:
            hold.is_acknowledged = True
            with self._reachable() as book, book.channel.conn_or_acquire() as client:
                try:
                    client.sadd(self.acked_key, delivery_tag)
                except ResponseError as exc:  # the task runs, whatever Redis says
                    logger.warning("a message is not noted as acknowledged: %s", exc)
                if hold.has_ended:  # meanwhile, in another thread
                    client.srem(self.acked_key, delivery_tag)
        self._quick_ack(delivery_tag)  # what kombu.transport.virtual.QoS.ack does

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._delivered.get(delivery_tag)
        job_id = job_id_of(message.headers) if message else ""
        if requeue and job_id:
            # By the courier: Celery logs an error here and forgets the message.
            park = partial(self._park, delivery_tag, job_id)
            self.slots.carry(f"put back the message of job {job_id}", park)
        else:
            with self._reachable() as book:
                if requeue:
                    book.restore_by_tag(delivery_tag, leftmost=True)
                else:
                    book._remove_from_indices(delivery_tag).execute()
        self._quick_ack(delivery_tag)

    def _park(self, delivery_tag: str, job_id: str) -> None:
        # As it was noted: the worker has written in its own copy of the message since.
        scheduler = self.app.minsched.scheduler
        entry = scheduler.redis.hget(scheduler.keys("node_unacked", self.node_id), delivery_tag)
        if entry is not None:
            noted, _, _ = loads(bytes_to_str(entry))
            list(_park(self.app.minsched, [_unacked(self.node_id, delivery_tag, job_id, noted)]))

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[QoS]:
        """This book; the same over a new connection where that over which its messages came is
        lost. (There kombu 5.7 raises an AttributeError, which ends the worker.)
        """
        if self.channel.connection is not None:
            yield self
            return
        with _connection(self.app, self.node_id) as connection:
            connection.connect()  # once; the channel would have it tried for long
            yield connection.channel().qos


def _place_of(delivered: dict[str, str]) -> tuple[str, str]:
    return delivered["exchange"], delivered["routing_key"]


def _connection(app: Celery, node_id: str) -> Connection:
    """A connection to the broker whose channel has the node's keys."""
    options = transport_options(app, node_id)
    connection: Connection = app.connection_for_read(transport_options=options)
    return connection


def _keep_none(job_id: str) -> bool:
    return False


class _Found(NamedTuple):
    """A job's message that was found at a node."""

    job_id: str
    message: dict[str, Any]
    raw: str | bytes  # as it is parked
    node_id: str = ""
    tag: str = ""  # of an unacknowledged one
    place: str = ""  # the list in which it lies, if it is none


def park_messages(plugin: MinSched, node_id: str, slots: Slots | None = None) -> Iterator[str]:
    """Move a node's messages, queued and unacknowledged, to their jobs' own lists; yields each job
    once its message is moved, so that an error on the way hides none of the earlier pages.

    Those of jobs that run here stay, by the ``slots`` of a node that lives. So do messages without
    a job: a caller sent them to this very node. Each message is moved in one step, so two nodes may
    do this at a time, or one after the other has died half-way.
    """
    keep = slots.stays if slots else _keep_none
    if slots:
        slots.withdraw_notes()
    with _connection(plugin.app, node_id) as connection:
        unacked = _read_unacked(plugin, node_id, keep, connection)
        while page := list(islice(unacked, _PAGE)):
            yield from _park(plugin, page)
    for name in ("node_taken", "node_queue"):
        yield from _park_queue(plugin, plugin.scheduler.keys(name, node_id), keep)


def _read_unacked(
    plugin: MinSched, node_id: str, keep: Callable[[str], bool], connection: Connection
) -> Iterator[_Found]:
    """The unacknowledged messages of jobs. One of no job is put back into its queue.

    An entry that is no message is set aside: it is noted as one that does not run again.
    """
    client, keys = plugin.scheduler.redis, plugin.scheduler.keys
    for field, entry in client.hscan_iter(keys("node_unacked", node_id), count=_PAGE):
        tag, message = bytes_to_str(field), read_unacked(entry)
        job_id = job_id_of(message.get("headers"))
        if not job_id:
            acked = keys("node_acked", node_id)
            if client.sismember(acked, tag):
                continue
            if not (message and _restore(connection.default_channel.qos, tag)):
                client.sadd(acked, tag)  # so the rescue ends, and this is logged once
                book = keys("node_unacked", node_id)
                logger.error(
                    "field %r of %s is no message: it stays there and does not run", tag, book
                )
        elif not keep(job_id):
            yield _unacked(node_id, tag, job_id, message)


def _restore(book: QoS, tag: str) -> bool:
    """Put a message that is no job's back into its queue. Returns whether it is a message."""
    try:
        book.restore_by_tag(tag)
    except (*NO_JSON, LookupError, RecursionError, DataError):
        return False
    return True


def give_up_queue(plugin: MinSched, node_id: str) -> None:
    """Have the jobs whose messages the node's stuck worker has not noted run elsewhere.

    A job that the worker claims meanwhile stays: ``rescue_node`` places those that it has not.
    """
    jobs: list[str] = []
    for name in ("node_taken", "node_queue"):
        jobs += _park_queue(plugin, plugin.scheduler.keys(name, node_id))
    if jobs:
        settle(plugin, node_id, jobs)


def settle(plugin: MinSched, node_id: str, moved: Iterable[str]) -> tuple[int, int, int]:
    """Place the jobs whose messages were moved, the oldest first, and settle the node's others, as
    long as that makes progress. How many jobs are placed, how many are lost, and how many the node
    still has.
    """
    jobs, placed, lost = by_age(moved), 0, 0
    while True:
        page, jobs = jobs[:_PAGE], jobs[_PAGE:]
        now_placed, now_lost, left = plugin.scheduler.rescue_node(node_id, page)
        placed, lost = placed + now_placed, lost + now_lost
        if not jobs and (not left or not (page or now_placed or now_lost)):
            return placed, lost, left


def _unacked(node_id: str, tag: str, job_id: str, message: dict[str, Any]) -> _Found:
    """An unacknowledged message, marked as kombu (5.7) marks a message that it restores."""
    with contextlib.suppress(KeyError, TypeError):
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
    return _Found(job_id, message, dumps(message), node_id, tag)


def _park_queue(
    plugin: MinSched, queue: str, keep: Callable[[str], bool] = _keep_none
) -> Iterator[str]:
    """Move the messages of a queue to their jobs' own lists, the next ones first; those jobs."""
    client: Any = plugin.scheduler.redis
    staying = 0
    # The next one is the last.
    while lying := client.lrange(queue, -staying - _PAGE, -staying - 1):
        page = []
        for raw in reversed(lying):
            message = read_message(raw)
            job_id = job_id_of(message.get("headers"))
            if not job_id or keep(job_id):
                staying += 1
            else:
                page.append(_Found(job_id, message, raw, place=queue))
        yield from _park(plugin, page)


def _park(plugin: MinSched, page: list[_Found]) -> Iterator[str]:
    """Move messages to the lists that their jobs' records name; the jobs whose messages were there.

    Redis may have lost what a job asks for, or all of the job: then the message tells.
    """
    scheduler = plugin.scheduler
    calls = [
        (
            *(one.job_id, one.raw, scheduler.keys.priority_suffix(priority_of(one.message))),
            *(one.node_id, one.tag, one.place),
        )
        for one in page
    ]
    for one, became in zip(page, scheduler.park_messages(calls), strict=True):
        if became == "incomplete":
            scheduler.repair_job(request_of(one.message), one.job_id)
        if became in ("parked", "incomplete"):
            yield one.job_id


def take_over(plugin: MinSched, node_id: str) -> None:
    """Place what a process that had this node's id before has left behind. May be called again."""
    if plugin.app.connection_for_read().transport.driver_type == "redis":
        settle(plugin, node_id, park_messages(plugin, node_id))
        return_taken(plugin, node_id)


def return_taken(plugin: MinSched, node_id: str) -> None:
    """Put back into its queue the messages that this node took, and neither noted nor parked. For a
    new process or a new connection of the node, before it takes anything.
    """
    client, keys = plugin.scheduler.redis, plugin.scheduler.keys
    taken, queue = keys("node_taken", node_id), keys("node_queue", node_id)
    while client.lmove(taken, queue, "RIGHT", "RIGHT") is not None:
        pass
