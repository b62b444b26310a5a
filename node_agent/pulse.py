"""The node's pulse: a small process beside the worker that registers it and sends heartbeats.

A thread would do until a task holds the interpreter (a long regular expression, a C extension), and
the worker's own ``heartbeat_sent`` is silent with ``--without-heartbeat``. The process is forked
before the worker starts. The worker tells it, over a pipe, which jobs it holds; between two such
reports the pulse still says that the node lives. It stops when the worker says so or is gone, and
keeps still while the worker is stopped (SIGSTOP). One that dies is forked anew. Where another
process has taken the node's id while it was away, the pulse kills the worker: all that is named by
the id is the other's now.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

import redis
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_minsched import (
    HeartbeatRequest,
    MinimalSchedulerService,
    NodeIdInUse,
    RegisterNodeRequest,
    UnknownNode,
    WrongLayout,
)
from celery_minsched.core.models import HeartbeatResponse
from celery_minsched.plugin.plugin import MinSched

from .load import LoadMeter
from .process import Processor, is_stopped, kill, now
from .watch import Watch

logger = logging.getLogger("node_agent.pulse")

_NOT_SOONER = 0.005  # seconds between two heartbeats, however much is due
#: Intervals that the process waits for the next report, so that it sends no heartbeat just before.
_REPORT_GRACE = 1.1


#: Why the worker takes no jobs; "" if it takes them.
State = Literal["", "stuck", "stopping"]


@dataclass(frozen=True)
class Report:
    """What the worker says of itself."""

    max_jobs: int
    jobs: list[str] | None  # that it holds; None while it cannot tell
    state: State = ""  # why it takes no jobs
    takes_at_once: bool = False  # each message, as soon as it comes
    last: bool = False
    concurrency: int | None = None  # processes or threads of its pool

    @property
    def online(self) -> bool:
        """Does the worker take jobs?"""
        return not self.state and not self.last


class Pulse:
    """The worker's end: starts the process, and reports to it at every heartbeat.

    ``ring`` is called in the process when a heartbeat says that there is something to rescue, and
    ``give_up_queue`` when the worker is stuck and does not say so.
    """

    def __init__(
        self,
        plugin: MinSched,
        registration: RegisterNodeRequest,
        client: redis.Redis,
        ring: Callable[[], None],
        give_up_queue: Callable[[], None],
    ) -> None:
        settings, keys = plugin.scheduler.settings, plugin.scheduler.keys
        scheduler = MinimalSchedulerService(client, settings, keys)
        self._changed = threading.Event()
        self._stopping = False
        self._context = multiprocessing.get_context("fork")
        # When, in which term, draining, and how long until the next heartbeat.
        self._heard = self._context.RawArray("d", [now(), 0, 0, settings.heartbeat_interval])
        self._heart = _Heart(scheduler, registration, ring, give_up_queue, self._heard)
        self._start()

    def report_from(self, look: Callable[[], Report]) -> None:
        """Report what ``look`` sees, from now on and in a thread of its own."""
        self._look = look
        self._thread = threading.Thread(target=self._report, name="pulse-report", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """Report now: something has changed that dispatch should know."""
        self._changed.set()

    def term(self) -> int | None:
        """The node's term, as Redis told it; ``None`` while Redis may have raised it.

        Redis hears a beat after the beat has started here. It declares no node dead in the first
        two intervals of silence, the shortest that ``declare_dead`` allows; ``node_ttl`` is longer.
        Each heartbeat tells Redis the interval by which the node goes then.
        So the term is good for two intervals from the start of the last answered beat. That start
        is read before the term, and the heart writes it after the term. The clock counts the time
        in which the process or the machine is stopped, and cannot be set.
        """
        is_certain = self.silence < 2 * self.interval
        return int(self._heard[1]) or None if is_certain else None

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats: the setting, or more in a large fleet."""
        return float(self._heard[3])

    @property
    def silence(self) -> float:
        """Seconds since the scheduler last heard the node."""
        return now() - float(self._heard[0])

    @property
    def draining(self) -> bool:
        """Did the scheduler say then that the node gets no more jobs?"""
        return bool(self._heard[2])

    def stop(self) -> None:
        """Send the last heartbeat, offline and with no jobs, and end the process."""
        self._stopping = True
        self._changed.set()
        if hasattr(self, "_thread"):
            self._thread.join(5)
        # In a thread: if the process was stopped for long, the pipe is full.
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
        theirs, pipe = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_beat, args=(theirs, self._heart, os.getpid()), name="node-pulse"
        )
        process.start()
        theirs.close()
        self._process, self._pipe = process, pipe

    def _report(self) -> None:
        while not self._stopping:
            try:
                self._pipe.send(self._look())
            except OSError as exc:  # the kernel may have killed it for want of memory
                logger.error("the pulse process is gone and is started again: %s", exc)
                if self._start_again():
                    continue
            except Exception:  # no error may end this thread
                logger.exception("an unexpected error in the worker's report")
            self._changed.wait(self.interval)
            self._changed.clear()

    def _start_again(self) -> bool:
        self._pipe.close()
        try:
            self._start()
        except OSError as exc:  # there may still be no memory
            logger.error("the pulse process cannot be started now: %s", exc)
            return False
        return True


def _beat(
    pipe: Connection,
    heart: _Heart,
    worker_pid: int,
) -> None:
    """The process: heartbeats until the worker says it is the last, or is gone."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the worker stops the pulse, after its last task
    logging.basicConfig(format="[%(asctime)s: %(levelname)s/pulse] %(message)s", level=logging.INFO)
    heart.meter = LoadMeter()
    processor = Processor(worker_pid)
    report: Report | None = None
    pause = heart.interval
    while os.getppid() == worker_pid:
        try:
            if pipe.poll(pause):
                report = pipe.recv()
                while pipe.poll(0):
                    report = pipe.recv()
        except (EOFError, OSError):
            return
        if is_stopped(worker_pid):
            continue
        try:
            next_due = heart.beat(report, processor.is_used())
        except NodeIdInUse as exc:
            logger.critical(
                "this node was away, and another process took its place: it ends, with all that it "
                "runs, which is its own no more: %s",
                exc,
            )
            kill(worker_pid)
            return
        pause = heart.interval * (_REPORT_GRACE if report else 1)
        if next_due >= 0:
            pause = min(pause, next_due + _NOT_SOONER)
        if report and report.last:
            return
        report = None  # what it says is true once


class _Heart:
    """Registers and beats; says once that Redis is away, and once that it is back."""

    def __init__(
        self,
        scheduler: MinimalSchedulerService,
        registration: RegisterNodeRequest,
        ring: Callable[[], None],
        give_up_queue: Callable[[], None],
        heard: Any,
    ) -> None:
        self.meter: LoadMeter
        self._scheduler = scheduler
        self._registration = registration
        self._ring = ring
        self._heard = heard
        self._give_up_queue = give_up_queue
        self._state: State = ""
        #: What the worker said last, until it is stuck without saying so.
        self._takes_at_once = False
        self._watch = Watch(scheduler.settings.node_ttl)
        self._is_silent = self._is_found_stuck = False
        self._trouble = ""
        self._next_due = -1.0

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return float(self._heard[3])

    def beat(self, report: Report | None, is_computing: bool = False) -> float:
        """One heartbeat, with the worker's report if there is a new one.

        A worker that does not report is stuck, unless it ``is_computing``: a task may hold its
        interpreter.

        Seconds until there is something to do for another, -1 for nothing known. Raises
        :class:`NodeIdInUse` where another process is the node now.
        """
        self._next_due = -1.0
        self._judge(report, is_computing)
        # The heartbeat is sent whatever became of the registration.
        trouble = [self._try(self._follow, report), self._try(self._send, report)]
        troubles = "; ".join(filter(None, trouble))
        if troubles and not self._trouble:
            logger.warning("%s", troubles)
        if self._trouble and not troubles:
            node_id = self._registration.node_id
            logger.info("node %s is heard again", node_id, extra={"node_id": node_id})
        self._trouble = troubles
        return self._next_due

    def _try(self, step: Callable[[Report | None], None], report: Report | None) -> str:
        """Take a step. Returns what failed, "" for nothing."""
        try:
            step(report)
        except NodeIdInUse:
            raise
        except ResponseError as exc:
            return f"Redis refuses, tasks go on and the node tries again: {exc}"
        except (RedisError, OperationalError) as exc:
            return f"Redis is away, tasks go on and the node is found again later: {exc}"
        except WrongLayout as exc:  # it lost all, and another version was there first
            return f"tasks go on, and the node gets no others: {exc}"
        except Exception as exc:  # no error may end the pulse
            if not self._trouble:
                logger.exception("an unexpected error in the pulse")
            return repr(exc)
        return ""

    def _follow(self, report: Report | None) -> None:
        """Register anew if the worker has come online or has other slots than before. A node
        that takes no jobs says so in its heartbeat, and keeps its registration.
        """
        if report is None or report.last:
            return
        known = self._registration
        size = {"max_jobs": report.max_jobs, "concurrency": report.concurrency}
        new = known.model_copy(update={"online": True, **size})
        if report.online and new != known:
            self._scheduler.register_node(new)
            self._registration = new
            logger.info(
                "node %s is online with %d slots",
                *(new.node_id, new.max_jobs),
                extra={"node_id": new.node_id, "online": True, "max_jobs": new.max_jobs},
            )

    def _judge(self, report: Report | None, is_computing: bool) -> None:
        """Is the worker stuck so badly that it cannot say so?"""
        if report:
            self._watch.note()
            self._state, self._takes_at_once = report.state, report.takes_at_once
        elif is_computing:
            self._takes_at_once = False  # what lies in its queue says nothing
        was_silent = self._is_silent
        self._is_silent = self._registration.online and self._watch.is_stuck(
            not is_computing, self.interval
        )
        if self._is_silent and self._state != "stopping":
            self._state = "stuck"
        if self._is_silent and not was_silent:
            logger.error(
                "node %s is stuck: its worker says nothing and does not compute",
                self._registration.node_id,
                extra={"node_id": self._registration.node_id, "stuck": True},
            )

    def _ask(self, request: HeartbeatRequest) -> HeartbeatResponse:
        try:
            return self._scheduler.heartbeat(request)
        except RedisTimeoutError:  # the connection may be lost, and Redis not: ask over a new one
            return self._scheduler.heartbeat(request)

    def _request(self, report: Report | None, is_last: bool) -> HeartbeatRequest:
        known = self._registration
        return HeartbeatRequest(
            node_id=known.node_id,
            online=known.online and not is_last,
            load_json=json.dumps(self.meter.read()),
            # A node that is not registered as online yet holds none, and has not left.
            jobs=report.jobs if report and (known.online or is_last) else None,
            instance=known.instance,
            rescues=True,
            state="" if is_last else self._state,
            takes_at_once=self._takes_at_once and not self._is_silent,
            interval=self.interval,
        )

    def _send(self, report: Report | None) -> None:
        known, is_last = self._registration, bool(report and report.last)
        request = self._request(report, is_last)
        began = now()
        try:
            answer = self._ask(request)
        except UnknownNode:
            if is_last:
                return
            online = known.online and not self._state
            self._scheduler.register_node(known.model_copy(update={"online": online}))
            logger.info(
                "node %s was not known any more and is registered again",
                request.node_id,
                extra={"node_id": request.node_id},
            )
            answer = self._ask(request)
        self._heard[3], self._heard[1] = answer.interval, answer.term
        self._heard[0] = began  # after the term, which the node may not read older than this
        self._next_due = answer.next_due_ms / 1000
        if answer.draining != bool(self._heard[2]):
            self._heard[2] = answer.draining
            change = "draining" if answer.draining else "not draining any more"
            logger.info(
                "node %s is %s",
                *(request.node_id, change),
                extra={"node_id": request.node_id, "draining": answer.draining},
            )
        if is_last:
            logger.info("node %s has left", request.node_id, extra={"node_id": request.node_id})
        if answer.is_stuck and not self._is_found_stuck:
            logger.error(
                "node %s is stuck: a message lies unread in its queue",
                request.node_id,
                extra={"node_id": request.node_id, "stuck": True},
            )
        self._is_found_stuck = answer.is_stuck
        if answer.is_stuck or self._is_silent:  # else the worker gives up its queue
            self._give_up_queue()
        # A node that leaves would leave the rescue half done.
        if answer.rescue_due and request.online and not request.state:
            self._ring()
