"""The thread of a node that rescues the jobs of dead nodes."""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celery_minsched.plugin import MinSched

from .lost_jobs import tell_lost
from .rescue import park_messages

logger = logging.getLogger(__name__)


def rescue(plugin: MinSched) -> None:
    """Take on rescues until none is due: move messages of dead nodes, tell of lost jobs."""
    scheduler = plugin.scheduler
    while True:
        node_id, lost = scheduler.claim_rescue()
        if node_id:
            _remove_mailbox(plugin.app, node_id)
            jobs = list(park_messages(plugin, node_id))
            logger.warning(
                "node %s is gone: %d of its jobs are placed anew",
                *(node_id, len(jobs)),
                extra={"node_id": node_id, "jobs": len(jobs)},
            )
            scheduler.rescue_node(node_id, jobs)
        for job_id in lost:
            tell_lost(plugin, job_id)
        if not node_id and not lost:
            return


def _remove_mailbox(app: Celery, node_id: str) -> None:
    """The dead worker's queue for remote control. One that comes back hears broadcasts without it:
    on Redis they are published to subscribers (kombu 5.7).
    """
    with app.connection_for_write() as connection:
        queue = app.control.mailbox.get_queue(f"celery@{node_id}")(connection.default_channel)
        queue.declare()  # kombu deletes the bindings that the connection knows of
        queue.delete()


class Rescuer:
    """A thread that rescues each time it is rung for, and goes on when that fails."""

    def __init__(self, plugin: MinSched) -> None:
        self._plugin = plugin
        self._bell, self._ringer = os.pipe()
        os.set_blocking(self._ringer, False)
        self._stopping = False
        self._thread = threading.Thread(target=self._wait, name="rescuer", daemon=True)

    def ring(self) -> None:
        """There is something to rescue. Never blocks; also in a process that was forked of this."""
        with contextlib.suppress(BlockingIOError):  # it has been rung for often enough
            os.write(self._ringer, b".")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Take on no rescue any more, and wait ``patience`` seconds at most for one begun."""
        self._stopping = True
        self.ring()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _wait(self) -> None:
        while os.read(self._bell, 4096) and not self._stopping:
            try:
                rescue(self._plugin)
            except (RedisError, OperationalError) as exc:
                logger.warning("a rescue was broken off, and is due again in seconds: %s", exc)
            except Exception:
                logger.exception("a rescue failed, and is tried again in seconds")
