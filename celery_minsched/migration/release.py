"""The way out: what waits goes back to ordinary Celery queues, and then no key of ours is left."""

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


class Release(BaseModel):
    """What came of it."""

    #: Messages by the queue to which they went.
    returned: dict[str, int] = {}
    #: Tasks that had been revoked while they waited: their callers are told so.
    revoked: int = 0
    #: Keys of ours that were deleted.
    deleted: int = 0
    #: What is in the way of deleting them, in sentences.
    left: list[str] = []


class NodesAtWork(Exception):
    """Nodes still take jobs."""


class _Message(NamedTuple):
    place: str
    queue: str
    task_id: str
    asked: tuple[str | bytes, ...]  # what the script is told


#: Lists of messages.
_MESSAGES: Final = ("job_queue", "node_queue", "node_taken")
_THERE_ARE_MORE: Final = (
    "There is more than when this began: applications go on to send jobs. Take MinSched(app) out "
    "of them."
)


class Releaser:
    """Releases all that the scheduler holds."""

    def __init__(self, plugin: MinSched) -> None:
        self._plugin = plugin
        self._scheduler = plugin.scheduler
        self._redis: Any = plugin.scheduler.redis
        self._keys = plugin.scheduler.keys
        self._done = Release()
        self._unread: set[str] = set()
        app = plugin.app
        app.loader.import_default_modules()  # whose tasks have queues
        self._router = AMQP.Router(app.amqp)  # without MinSchedRouter

    def waiting(self) -> int:
        """How many jobs wait, or are delayed."""
        in_line = self._plugin.views.waiting_count()
        return in_line + int(self._redis.zcard(self._keys("delayed")))

    def release(self, step: Callable[[], None] = lambda: None) -> Release:
        """Do it; ``step`` is called for each message. Can be broken off, and called again.

        Raises :class:`NodesAtWork`, with nothing changed.
        """
        if working := [node.node_id for node in self._plugin.views.nodes() if node.takes_jobs]:
            raise NodesAtWork(", ".join(working))
        for jobs in pages(list(self._waiting_jobs())):  # all, before the lines get shorter
            self._return_all([place for job_id in jobs for place in self._lists_of(job_id)], step)
        for batch in scan_keys(self._redis, self._keys, "minsched.*"):
            self._return_all([key for key in batch if self._name(key) in _MESSAGES], step)
        self._done.left = list(self._obstacles())
        if not self._done.left:
            self._delete_keys()
        return self._done

    def _waiting_jobs(self) -> Iterator[str]:
        """Those in line, in their order, and the delayed ones."""
        reader = self._plugin.views.reader
        for line in sorted(line_names(reader)):
            yield from job_ids_in(reader, line)
        yield from reader.in_order("delayed")

    def _lists_of(self, job_id: str) -> list[str]:
        """The lists, one a priority, in one of which the job's message lies."""
        return [self._keys("job_queue", job_id) + suffix for suffix in self._keys.suffixes]

    def _return_all(self, places: Iterable[str], step: Callable[[], None]) -> None:
        """Return the messages of these lists, of each the next to be taken first."""
        staying = dict.fromkeys(places, 0)
        while staying:
            with self._redis.pipeline(transaction=False) as pipe:
                for place, passed in staying.items():
                    pipe.lindex(place, -1 - passed)
                raws = pipe.execute()
            asked: list[_Message] = []
            for place, raw in zip(list(staying), raws, strict=True):
                if raw is None:
                    del staying[place]
                elif message := self._read(place, raw):
                    asked.append(message)
                else:
                    self._unread.add(place)
                    staying[place] += 1
            became = self._scheduler.return_messages([message.asked for message in asked])
            for message, fate in zip(asked, became, strict=True):
                if fate == "kept":
                    staying[message.place] += 1
                else:
                    self._note(message, fate)
                    step()

    def _note(self, message: _Message, fate: str) -> None:
        if fate == "returned":
            queue = message.queue
            self._done.returned[queue] = self._done.returned.get(queue, 0) + 1
        if fate == "revoked":
            self._done.revoked += 1
            self._plugin.app.backend.mark_as_revoked(message.task_id, "revoked")

    def _read(self, place: str, raw: bytes) -> _Message | None:
        """A message, and where it should go; ``None`` for one that is no task's."""
        message = read_task(raw)
        if message is None:
            return None
        content, headers, properties, task, task_id = message
        job_id = job_id_of(headers)
        queue = self._queue_of(task)
        if isinstance(stated := headers.pop(HEADER, None), dict) and stated.get("demand"):
            headers[HEADER] = empty_place() | {"demand": stated["demand"]}  # of no job any more
        properties["delivery_info"] = _delivery_info(queue)
        suffix = self._keys.priority_suffix(priority_of(content))
        target = self._keys.queue_prefix + queue.name + suffix
        asked = (place, raw, target, dumps(content), job_id)
        return _Message(place, queue.name, task_id, asked)

    def _queue_of(self, name: str) -> Any:
        """The kombu queue to which Celery would send the task, if we were not there."""
        app = self._plugin.app
        task = app.tasks.get(name)
        own = {
            option: getattr(task, option, None) for option in ("queue", "exchange", "routing_key")
        }
        options = {option: value for option, value in own.items() if value is not None}
        route = self._router.route(options, name, (), {}, task_type=task)
        return route.get("queue") or app.amqp.queues[app.conf.task_default_queue]

    def _obstacles(self) -> Iterator[str]:
        """What is not over yet, and what to do about it."""
        views = self._plugin.views
        alive = {node.node_id for node in views.nodes() if node.heartbeats_arriving}
        if alive:
            yield (
                f"These nodes are still there: {', '.join(sorted(alive))}. Wait until they have no "
                "jobs, and stop them."
            )
        gone = {
            node.node_id
            for node in views.nodes()
            if node.node_id not in alive
            and (node.current_jobs or self._redis.exists(self._keys("node_unacked", node.node_id)))
        }
        if gone:
            yield (
                f"No node has rescued the jobs of {', '.join(sorted(gone))} yet. Start a node, "
                "drain it, wait until this command says so no more, and stop it."
            )
        if self._redis.exists(self._keys("lost")):
            yield (
                "Jobs are lost, and no node has told their callers yet. Start a node, "
                "drain it, wait until this command says so no more, and stop it."
            )
        if self.waiting():
            yield _THERE_ARE_MORE
        if self._unread:
            yield (
                f"These lists have messages that are no task's: {', '.join(sorted(self._unread))}. "
                "Read them with LRANGE, and DEL them."
            )

    def _delete_keys(self) -> None:
        """No list of messages: they are empty, unless somebody sends just now."""
        layout = self._keys("layout")
        for batch in self._ours():
            # The layout is last: without it half of our keys would look like another's.
            for page in pages(key for key in batch if key != layout):
                self._done.deleted += self._redis.unlink(*page)
        self._done.deleted += self._redis.delete(layout)
        if any(self._ours()) or self.waiting():
            self._done.left = [_THERE_ARE_MORE]

    def _ours(self) -> Iterator[list[str]]:
        """Our keys but for lists of messages, and kombu's keys of our queues, in batches."""
        queues = self._keys.queue_prefix
        for pattern in (f"{self._keys.own_prefix}*", "minsched.*"):
            for batch in scan_keys(self._redis, self._keys, pattern):
                yield [key for key in batch if self._name(key) not in ("", *_MESSAGES)]
        for begin in BINDINGS:
            for batch in scan_keys(self._redis, self._keys, f"{begin}minsched.*"):
                yield [key for key in batch if self._name(key.replace(queues + begin, queues, 1))]

    def _name(self, key: str) -> str:
        """Which of our keys it is; "" for one that is not ours."""
        parsed = self._keys.parse(key)
        return parsed[0] if parsed else ""


def _delivery_info(queue: Any) -> dict[str, str]:
    """As celery 5.7 sends to a queue (``AMQP._create_task_sender``)."""
    if (queue.exchange.type or "direct") == "direct":
        return {"exchange": "", "routing_key": queue.name}
    return {"exchange": queue.exchange.name, "routing_key": queue.routing_key}
