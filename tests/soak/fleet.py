"""Six workers, prefork and threads, as nodes or plain Celery workers, and the signals to them."""

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
#: Name, pool implementation, number of processes or threads.
BOXES = [
    *((f"n{n}", "prefork", 3) for n in (1, 2, 3)),
    *((f"n{n}", "threads", 6) for n in (4, 5, 6)),
]


@dataclass
class Absence:
    """A period in which a worker may be declared dead, and its cause."""

    cause: str
    since: float
    until: float = float("inf")


class Worker:
    """One worker in its own process group."""

    def __init__(
        self, name: str, command: list[str], logs: Path, is_plain: bool = False, **environment: str
    ) -> None:
        self.name = name
        self.absences: list[Absence] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.is_leaving = False  # after SIGTERM or SIGQUIT
        self.is_stopped = False  # after SIGSTOP
        self.returned: float | None = None  # ms since the epoch. None after the next heartbeat
        self._is_plain = is_plain
        self._command = command
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._logged_before = 0  # bytes in the log from earlier processes

    @property
    def is_up(self) -> bool:
        """True if the worker runs and is not stopped."""
        running = self.process is not None and self.process.poll() is None
        return running and not self.is_leaving and not self.is_stopped

    def start(self) -> None:
        """Start or restart the worker."""
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
        """Send SIGKILL to all processes of the worker."""
        self.begin_absence("kill -9")
        self._signal_all(signal.SIGKILL)
        assert self.process
        self.process.wait()

    def stop(self) -> None:
        """Send SIGSTOP to all processes of the worker."""
        self.begin_absence("SIGSTOP")
        self.is_stopped = True
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT to all processes of the worker."""
        self._signal_all(signal.SIGCONT)
        self.is_stopped = False
        self._return()

    def ask_to_stop(self) -> None:
        """Send SIGTERM. The worker finishes its running tasks."""
        assert self.process
        self.is_leaving = True
        self.process.terminate()

    @property
    def is_absent(self) -> bool:
        """True if the worker may be declared dead."""
        return bool(self.absences) and self.absences[-1].until == float("inf")

    def begin_absence(self, cause: str) -> None:
        """From now on the worker may be declared dead."""
        self.returned = None
        self.absences.append(Absence(cause, time.monotonic()))

    def end_absence(self) -> None:
        """The heartbeats of the worker arrive again."""
        self.returned = None
        if self.is_absent:
            self.absences[-1].until = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """True if the current process is ready for tasks."""
        return b" ready." in self._log.read_bytes()[self._logged_before :]

    def _return(self) -> None:
        if self._is_plain:
            self.end_absence()
        else:
            self.returned = time.time() * 1000

    def close(self) -> None:
        """Kill the worker."""
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
    """The command line of a worker. The caller may append options."""
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
