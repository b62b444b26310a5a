"""Rescues the jobs of dead nodes, in a thread of a live node."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from functools import partial

from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celery_minsched.plugin.plugin import MinSched

from .lost_jobs import LostJobs
from .requeue import park_messages, settle

logger = logging.getLogger(__name__)


def rescue(plugin: MinSched) -> None:
    """Rescue nodes until no rescue is due. A failed rescue is due again after seconds."""
    with contextlib.closing(_Mailboxes(plugin.app)) as mailboxes:
        while True:
            node_id, how = plugin.scheduler.claim_rescue()
            if not node_id:
                return
            try:
                mailboxes.remove(node_id)
                _rescue_node(plugin, node_id, how)
            except (RedisError, OperationalError) as exc:
                logger.warning("the rescue of node %s is tried again in seconds: %s", node_id, exc)
            except Exception:
                logger.exception(
                    "the rescue of node %s failed, and is tried again in seconds", node_id
                )


def _rescue_node(plugin: MinSched, node_id: str, how: str) -> None:
    placed, lost, left = settle(plugin, node_id, park_messages(plugin, node_id))
    is_over = how == "dead" and not left
    if placed or lost or is_over:
        logger.log(
            logging.WARNING if how == "dead" else logging.INFO,
            "node %s %s: %d jobs placed again, %d lost",
            *(node_id, "is dead" if how == "dead" else "has left", placed, lost),
            extra={"node_id": node_id, "placed": placed, "lost": lost},
        )


class _Mailboxes:
    """The queues of dead workers for remote control, over one connection for all."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None

    def remove(self, node_id: str) -> None:
        """Remove the queue of the node's worker. A worker that comes back still gets broadcasts:
        kombu 5.7 publishes them to subscribers.
        """
        try:
            if self._connection is None:
                self._connection = self._app.connection_for_write()
                self._connection.connect()  # once. The channel would retry for long
            mailbox = self._app.control.mailbox.get_queue(f"celery@{node_id}")
            queue = mailbox(self._connection.default_channel)
            queue.declare()  # kombu deletes only the bindings that the connection knows
            queue.delete()
        except Exception as exc:  # the broker may be away, and the jobs must not wait for it
            logger.warning("the mailbox of node %s is not removed: %s", node_id, exc)
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.release()


class Rescuer:
    """A thread that rescues whenever it is woken. An error does not end it."""

    def __init__(self, plugin: MinSched) -> None:
        self._plugin = plugin
        self._lost_jobs = LostJobs(plugin)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._stopping = False
        self._thread = threading.Thread(target=self._wait, name="rescuer", daemon=True)

    def wake(self) -> None:
        """Wake the thread. Never blocks. Works in a forked process too."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes anyway
            os.write(self._writer, b".")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Begin no rescue, and wait ``patience`` seconds at most for a running one."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(patience)
        self._lost_jobs.stop(patience)

    def _wait(self) -> None:
        while os.read(self._reader, 4096) and not self._stopping:
            self._try(partial(rescue, self._plugin))
            self._try(self._lost_jobs.report_due)  # after the rescue: it may add lost jobs

    @staticmethod
    def _try(step: Callable[[], None]) -> None:
        try:
            step()
        except (RedisError, OperationalError) as exc:
            logger.warning("a rescue was interrupted, and is tried again in seconds: %s", exc)
        except Exception:  # no error may end the thread
            logger.exception("a rescue failed, and is tried again in seconds")
