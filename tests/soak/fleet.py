"""Six workers, prefork and threads, as nodes or as plain Celery, and what can be done to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..support.fleet import ROOT
from .app import POOL

APP = "tests.soak.app"
#: Name, kind of pool, processes or threads.
BOXES = [
    *((f"n{n}", "prefork", 3) for n in (1, 2, 3)),
    *((f"n{n}", "threads", 6) for n in (4, 5, 6)),
]


@dataclass
class Absence:
    """A time in which a worker could not be relied upon, and why."""

    why: str
    since: float
    until: float = float("inf")


class Worker:
    """One worker, in a process group of its own; started again whenever it is gone."""

    def __init__(
        self, name: str, command: list[str], logs: Path, is_plain: bool = False, **environment: str
    ) -> None:
        self.name = name
        self.absences: list[Absence] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.is_leaving = False  # it was asked to stop
        self.is_stopped = False  # by SIGSTOP
        self.returned: float | None = None  # ms since the epoch; and nobody has heard of it yet
        self._is_plain = is_plain
        self._command = command
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._logged_before = 0  # bytes, by the processes before this one

    @property
    def is_up(self) -> bool:
        """Is it there, and nothing has been done to it?"""
        running = self.process is not None and self.process.poll() is None
        return running and not self.is_leaving and not self.is_stopped

    def start(self) -> None:
        """Start it, or start it again."""
        self.is_leaving = False
        with open(self._log, "ab") as log:
            self._logged_before = log.tell()
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._return()

    def kill(self) -> None:
        """``kill -9`` of all its processes."""
        self.begin_absence("kill -9")
        self._signal_all(signal.SIGKILL)
        assert self.process
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP of all its processes, as when a laptop sleeps."""
        self.begin_absence("SIGSTOP")
        self.is_stopped = True
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)
        self.is_stopped = False
        self._return()

    def ask_to_stop(self) -> None:
        """SIGTERM: it finishes what runs."""
        assert self.process
        self.is_leaving = True
        self.process.terminate()

    @property
    def is_absent(self) -> bool:
        """May it be taken for dead?"""
        return bool(self.absences) and self.absences[-1].until == float("inf")

    def begin_absence(self, why: str) -> None:
        """From now on it may be taken for dead."""
        self.returned = None
        self.absences.append(Absence(why, time.monotonic()))

    def end_absence(self) -> None:
        """It is heard again."""
        self.returned = None
        if self.is_absent:
            self.absences[-1].until = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """Has its present process started all that it needs?"""
        return b" ready." in self._log.read_bytes()[self._logged_before :]

    def _return(self) -> None:
        if self._is_plain:
            self.end_absence()
        else:
            self.returned = time.time() * 1000

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process:
            self._signal_all(signal.SIGKILL)
            self.process.wait()

    def _signal_all(self, signum: int) -> None:
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)


def command(
    name: str, pool: str, processes: int, app: str = APP, is_plain: bool = False
) -> list[str]:
    """The command line of a worker, to which options may be added."""
    program = ["celery", "-A", app, "worker", "-n", f"celery@{name}"]
    if not is_plain:
        program = ["node_agent", "-A", app, "--node-id", name, "--pool", POOL]
    options = ["-c", str(processes), "-P", pool, "--without-gossip", "--without-mingle"]
    return [sys.executable, "-m", *program, *options, "--loglevel", "INFO"]


def make_fleet(logs: Path, is_plain: bool) -> list[Worker]:
    """The workers, not yet started."""
    return [
        Worker(name, command(name, pool, processes, is_plain=is_plain), logs, is_plain)
        for name, pool, processes in BOXES
    ]
