"""The main function of the pulse process."""

from __future__ import annotations

import logging
import os
import signal
from multiprocessing.connection import Connection

from celery_minsched import NodeIdInUse

from .heartbeats import Heartbeats
from .load import LoadMeter
from .process import Processor, is_stopped, kill
from .report import Report

logger = logging.getLogger("node_agent.pulse")

_SHORTEST_PAUSE = 0.005  # seconds between two heartbeats, however much is due
#: Intervals that the process waits for the next report, so that it sends no heartbeat just before.
_REPORT_GRACE = 1.1


def send_heartbeats(pipe: Connection, heartbeats: Heartbeats, worker_pid: int) -> None:
    """Send heartbeats until the worker sends its last report or is gone.

    If another process has taken the node's id meanwhile, kill the worker: everything that the id
    names is the other's now.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the worker stops the pulse, after its last task
    logging.basicConfig(format="[%(asctime)s: %(levelname)s/pulse] %(message)s", level=logging.INFO)
    heartbeats.meter = LoadMeter()
    processor = Processor(worker_pid)
    report: Report | None = None
    pause = heartbeats.interval
    while os.getppid() == worker_pid:
        try:
            report = _last_report(pipe, pause) or report
        except (EOFError, OSError):
            return
        if is_stopped(worker_pid):
            continue
        try:
            next_due = heartbeats.send(report, processor.is_used())
        except NodeIdInUse as exc:
            logger.critical(
                "this node was away, and another process took its place. This node ends, with all "
                "its tasks: %s",
                exc,
            )
            kill(worker_pid)
            return
        pause = heartbeats.interval * (_REPORT_GRACE if report else 1)
        if next_due >= 0:
            pause = min(pause, next_due + _SHORTEST_PAUSE)
        if report and report.last:
            return
        report = None  # it was true when it came


def _last_report(pipe: Connection, pause: float) -> Report | None:
    """The last report that came, or ``None`` if none came within ``pause`` seconds."""
    report: Report | None = None
    if pipe.poll(pause):
        report = pipe.recv()
        while pipe.poll(0):
            report = pipe.recv()
    return report
