"""Moves all waiting jobs back to ordinary Celery queues, and deletes the scheduler's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from celery.app.amqp import AMQP
from kombu.utils.json import dumps
from pydantic import BaseModel

from ..consistency.leftovers import BINDINGS
from ..core.reading import pages, scan_keys
from ..monitor.lines import job_ids_in, line_names
from ..plugin.header import HEADER
from ..plugin.messages import job_id_of, priority_of, read_task
from ..plugin.plugin import MinSched
from ..plugin.request_place import empty_place

#: The names of the keys that are lists of messages.
_MESSAGE_LISTS: Final = ("job_queue", "node_queue", "node_taken")
_STILL_SENDING: Final = (
    "There are new jobs since the command began, because applications still send them. Remove "
    "MinSched(app) from the applications."
)


class Release(BaseModel):
    """The result of a release."""

    #: The number of returned messages by queue.
    returned: dict[str, int] = {}
    #: Tasks that were revoked while they waited. Their results have the status REVOKED.
    revoked: int = 0
    #: Deleted keys.
    deleted: int = 0
    #: The reasons why keys are left, as sentences.
    left: list[str] = []


class NodesAtWork(Exception):
    """Nodes still take jobs. The message lists them."""


class _Message(NamedTuple):
    source: str
    queue: str
    task_id: str
    script_arguments: tuple[str | bytes, ...]


class Releaser:
    """Releases all jobs of a scheduler."""

    def __init__(self, plugin: MinSched) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler
        self._redis: Any = plugin.scheduler.redis
        self._keys = plugin.scheduler.keys
        self._result = Release()
        self._unreadable_lists: set[str] = set()
        app = plugin.app
        app.loader.import_default_modules()  # registers the tasks with their queues
        self._router = AMQP.Router(app.amqp)  # without MinSchedRouter

    def waiting(self) -> int:
        """The number of waiting and delayed jobs."""
        in_line = self._plugin.views.waiting_count()
        return in_line + int(self._redis.zcard(self._keys("delayed")))

    def release(self, step: Callable[[], None] = lambda: None) -> Release:
        """Return all messages, and then delete the keys. Calls ``step`` for each message.

        After an interruption, a second call releases the rest. Raises :class:`NodesAtWork` before
        it changes anything.
        """
        if working := [node.node_id for node in self._plugin.views.nodes() if node.takes_jobs]:
            raise NodesAtWork(", ".join(working))
        # The list of jobs is complete before a return makes the lines shorter.
        for job_ids in pages(list(self._waiting_jobs())):
            self._return_all([key for job_id in job_ids for key in self._lists_of(job_id)], step)
        for batch in scan_keys(self._redis, self._keys, "minsched.*"):
            self._return_all([key for key in batch if self._name(key) in _MESSAGE_LISTS], step)
        self._result.left = list(self._obstacles())
        if not self._result.left:
            self._delete_keys()
        return self._result

    def _waiting_jobs(self) -> Iterator[str]:
        """Jobs in line in the order of their lines, and then the delayed jobs."""
        reader = self._plugin.views.reader
        for line in sorted(line_names(reader)):
            yield from job_ids_in(reader, line)
        yield from reader.in_order("delayed")

    def _lists_of(self, job_id: str) -> list[str]:
        """The lists that can contain the job's message, one for each priority."""
        return [self._keys("job_queue", job_id) + suffix for suffix in self._keys.suffixes]

    def _return_all(self, lists: Iterable[str], step: Callable[[], None]) -> None:
        """Return the messages of these lists, each list in the order of a worker."""
        staying = dict.fromkeys(lists, 0)  # messages of each list that stay in it
        while staying:
            with self._redis.pipeline(transaction=False) as pipe:
                for key, passed in staying.items():
                    pipe.lindex(key, -1 - passed)
                heads = pipe.execute()
            messages: list[_Message] = []
            for key, raw in zip(list(staying), heads, strict=True):
                if raw is None:
                    del staying[key]
                elif message := self._read(key, raw):
                    messages.append(message)
                else:
                    self._unreadable_lists.add(key)
                    staying[key] += 1
            outcomes = self._scheduler.return_messages(
                [message.script_arguments for message in messages]
            )
            for message, outcome in zip(messages, outcomes, strict=True):
                if outcome == "kept":
                    staying[message.source] += 1
                else:
                    self._count(message, outcome)
                    step()

    def _count(self, message: _Message, outcome: str) -> None:
        if outcome == "returned":
            queue = message.queue
            self._result.returned[queue] = self._result.returned.get(queue, 0) + 1
        if outcome == "revoked":
            self._result.revoked += 1
            self._plugin.app.backend.mark_as_revoked(message.task_id, "revoked")

    def _read(self, source: str, raw: bytes) -> _Message | None:
        """A message and its target, or ``None`` if it is not a task message."""
        message = read_task(raw)
        if message is None:
            return None
        content, headers, properties, task, task_id = message
        job_id = job_id_of(headers)
        queue = self._queue_of(task)
        header = headers.pop(HEADER, None)
        if isinstance(header, dict) and header.get("demand"):
            headers[HEADER] = empty_place() | {"demand": header["demand"]}  # without a job
        properties["delivery_info"] = _delivery_info(queue)
        suffix = self._keys.priority_suffix(priority_of(content))
        target = self._keys.queue_prefix + queue.name + suffix
        arguments = (source, raw, target, dumps(content), job_id)
        return _Message(source, queue.name, task_id, arguments)

    def _queue_of(self, name: str) -> Any:
        """The kombu queue to which Celery sends the task without the scheduler."""
        app = self._plugin.app
        task = app.tasks.get(name)
        own = {
            option: getattr(task, option, None) for option in ("queue", "exchange", "routing_key")
        }
        options = {option: value for option, value in own.items() if value is not None}
        route = self._router.route(options, name, (), {}, task_type=task)
        return route.get("queue") or app.amqp.queues[app.conf.task_default_queue]

    def _obstacles(self) -> Iterator[str]:
        """The reasons why the keys cannot be deleted yet, with the remedies."""
        nodes = self._plugin.views.nodes()
        alive = {node.node_id for node in nodes if node.heartbeats_arriving}
        if alive:
            yield (
                f"These nodes are still there: {', '.join(sorted(alive))}. Wait until they have no "
                "jobs, and stop them."
            )
        unrescued = {
            node.node_id
            for node in nodes
            if node.node_id not in alive
            and (node.current_jobs or self._redis.exists(self._keys("node_unacked", node.node_id)))
        }
        if unrescued:
            yield (
                f"No node has rescued the jobs of {', '.join(sorted(unrescued))} yet. Start a "
                "node, drain it, run this command until it does not print this, and stop "
                "the node."
            )
        if self._redis.exists(self._keys("lost")):
            yield (
                "Jobs are lost, and no node has reported them to their callers yet. Start a node, "
                "drain it, run this command until it does not print this, and stop the node."
            )
        if self.waiting():
            yield _STILL_SENDING
        if self._unreadable_lists:
            yield (
                "These lists have messages that are not task messages: "
                f"{', '.join(sorted(self._unreadable_lists))}. Read them with LRANGE, and delete "
                "them with DEL."
            )

    def _delete_keys(self) -> None:
        """Delete all keys except message lists. These are empty, unless a task arrives now."""
        layout = self._keys("layout")
        for batch in self._own_keys():
            # The layout is deleted last. Without it, an interrupted release would look like the
            # data of another version.
            for page in pages(key for key in batch if key != layout):
                self._result.deleted += self._redis.unlink(*page)
        self._result.deleted += self._redis.delete(layout)
        if any(self._own_keys()) or self.waiting():
            self._result.left = [_STILL_SENDING]

    def _own_keys(self) -> Iterator[list[str]]:
        """The scheduler's keys without message lists, and kombu's keys of its queues."""
        queues = self._keys.queue_prefix
        for pattern in (f"{self._keys.own_prefix}*", "minsched.*"):
            for batch in scan_keys(self._redis, self._keys, pattern):
                yield [key for key in batch if self._name(key) not in ("", *_MESSAGE_LISTS)]
        for begin in BINDINGS:
            for batch in scan_keys(self._redis, self._keys, f"{begin}minsched.*"):
                yield [key for key in batch if self._name(key.replace(queues + begin, queues, 1))]

    def _name(self, key: str) -> str:
        """The name of a key in :mod:`celery_minsched.core.keys`, or "" for an unknown key."""
        parsed = self._keys.parse(key)
        return parsed[0] if parsed else ""


def _delivery_info(queue: Any) -> dict[str, str]:
    """The delivery info of a message to the queue (celery 5.7, ``AMQP._create_task_sender``)."""
    if (queue.exchange.type or "direct") == "direct":
        return {"exchange": "", "routing_key": queue.name}
    return {"exchange": queue.exchange.name, "routing_key": queue.routing_key}
