"""Programs forked from a process that has imported the modules of a node. This halves the start.

They are real processes, each with its own process group, environment and log. The tests of docs and
of the demo start ``python -m node_agent`` itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from node_agent.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
#: This module, and modules that a Celery worker (5.7) imports only when it starts.
_CONTEXT.set_forkserver_preload(
    [
        "tests.support.forked",
        "celery.app.builtins",
        "celery.app.control",
        "celery.app.events",
        "celery.app.log",
        "celery.apps.worker",
        "celery.backends.redis",
        "celery.concurrency.prefork",
        "celery.concurrency.thread",
        "celery.fixups.django",
        "celery.worker.autoscale",
        "celery.worker.components",
        "celery.worker.consumer",
        "kombu.transport.redis",
    ]
)


_ROOT = Path(__file__).resolve().parents[2]


class ForkedProcess:
    """A process that runs ``program(args)``, with methods of ``subprocess.Popen``."""

    def __init__(
        self,
        program: Callable[[list[str]], object],
        args: list[str],
        environment: dict[str, str],
        log: Path,
        folder: Path = _ROOT,
    ) -> None:
        self._process = _CONTEXT.Process(
            target=_run, args=(program, args, environment, log, folder)
        )
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that killed the process. ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Returns ``returncode``."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises ``subprocess.TimeoutExpired``."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("node-agent", timeout or 0)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


class NodeProcess(ForkedProcess):
    """``node-agent ARGS``."""

    def __init__(self, args: list[str], environment: dict[str, str], log: Path) -> None:
        super().__init__(_node_agent, args, environment, log)


def _node_agent(args: list[str]) -> None:
    sys.argv = ["node-agent", *args]
    main(args)


def _run(
    program: Callable[[list[str]], object],
    args: list[str],
    environment: dict[str, str],
    log: Path,
    folder: Path,
) -> None:
    os.setsid()  # its process group has the program and its children
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.path[:0] = [str(folder), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.exit(program(args))
