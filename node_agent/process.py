"""The state of the worker's process, for the pulse process."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

_PROCESSOR_PERIOD = 1.0  # seconds
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_ZOMBIE)


def now() -> float:
    """Seconds on a clock that all processes share and that runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def is_stopped(pid: int) -> bool:
    """Is the process stopped or dead?"""
    with contextlib.suppress(psutil.Error, OSError):  # /proc may be unreadable
        return psutil.Process(pid).status() in _STOPPED
    return False


def kill(worker_pid: int) -> None:
    """Kill the worker and its other child processes."""
    children = []
    with contextlib.suppress(psutil.Error, OSError):
        children = psutil.Process(worker_pid).children(recursive=True)
    for pid in [worker_pid, *(process.pid for process in children)]:
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Processor:
    """Measures whether the worker's process computes."""

    def __init__(self, worker_pid: int) -> None:
        self._worker_pid = worker_pid
        self._looked_at, self._used = now(), self._read()
        self._is_used = False

    def is_used(self) -> bool:
        """Did it compute for more than a tenth of the last second or more?"""
        passed = now() - self._looked_at
        if passed >= _PROCESSOR_PERIOD:
            used = self._read()
            self._is_used = used - self._used > passed / 10
            self._looked_at, self._used = now(), used
        return self._is_used

    def _read(self) -> float:
        with contextlib.suppress(psutil.Error, OSError):  # /proc may be unreadable
            times = psutil.Process(self._worker_pid).cpu_times()
            return float(times.user + times.system)
        return 0.0
