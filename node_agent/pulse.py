"""The node's pulse: a small process beside the worker that registers the node and sends heartbeats.

A thread of the worker would stop while a task holds the interpreter (a long regular expression, a C
extension). Celery's own ``heartbeat_sent`` is not sent with ``--without-heartbeat``.

The process is forked before the worker starts. Over a pipe the worker reports which jobs it holds.
Between two reports the process still sends heartbeats. It ends when the worker says so or is gone,
and sends nothing while the worker is stopped (SIGSTOP). If the process dies, the worker forks
another.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable

import redis

from celery_minsched import MinimalSchedulerService, RegisterNodeRequest
from celery_minsched.plugin.plugin import MinSched

from .heartbeats import Heartbeats
from .last_heartbeat import LastHeartbeat
from .pulse_process import send_heartbeats
from .report import Report

logger = logging.getLogger(__name__)


class Pulse:
    """Starts the pulse process, and reports to it before every heartbeat.

    The process calls ``wake_rescuer`` when a heartbeat says that there is a node to rescue, and
    ``give_up_queue`` when the worker is stuck and does not report it.
    """

    def __init__(
        self,
        plugin: MinSched,
        registration: RegisterNodeRequest,
        client: redis.Redis,
        wake_rescuer: Callable[[], None],
        give_up_queue: Callable[[], None],
    ) -> None:
        settings, keys = plugin.scheduler.settings, plugin.scheduler.keys
        scheduler = MinimalSchedulerService(client, settings, keys)
        self._changed = threading.Event()
        self._stopping = False
        self._context = multiprocessing.get_context("fork")
        self.last_heartbeat = LastHeartbeat(self._context, settings.heartbeat_interval)
        self._heartbeats = Heartbeats(
            scheduler, registration, self.last_heartbeat, wake_rescuer, give_up_queue
        )
        self._start()

    def report_from(self, look: Callable[[], Report]) -> None:
        """Report what ``look`` returns from now on, in a thread."""
        self._look = look
        self._thread = threading.Thread(target=self._report, name="pulse-report", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Report now: something has changed that the scheduler should know."""
        self._changed.set()

    def stop(self) -> None:
        """Send the last heartbeat, offline and with no jobs, and end the process."""
        self._stopping = True
        self._changed.set()
        if hasattr(self, "_thread"):
            self._thread.join(5)
        # In a thread: the pipe is full if the process was stopped for long.
        sender = threading.Thread(target=self._send_last, name="pulse-last", daemon=True)
        sender.start()
        sender.join(10)
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send_last(self) -> None:
        with contextlib.suppress(OSError):  # the process is gone already
            self._pipe.send(Report(max_jobs=0, jobs=[], last=True))

    def _start(self) -> None:
        reader, self._pipe = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=send_heartbeats, args=(reader, self._heartbeats, os.getpid()), name="node-pulse"
        )
        self._process.start()
        reader.close()

    def _report(self) -> None:
        while not self._stopping:
            try:
                self._pipe.send(self._look())
            except OSError as exc:  # the kernel may have killed the process to free memory
                logger.error("the pulse process is gone and is started again: %s", exc)
                if self._start_again():
                    continue
            except Exception:  # no error may end this thread
                logger.exception("an unexpected error in the worker's report")
            self._changed.wait(self.last_heartbeat.interval)
            self._changed.clear()

    def _start_again(self) -> bool:
        self._pipe.close()
        try:
            self._start()
        except OSError as exc:  # there may still be no memory
            logger.error("the pulse process cannot be started now: %s", exc)
            return False
        return True
