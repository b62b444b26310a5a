"""Programs forked of a process that has imported what a node needs: half of a start is that.

Real processes all the same, each with a process group, an environment and a log of its own. What
``python -m node_agent`` itself does is for tests/docs/test_docs.py and the demo.
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
#: This module, and what a worker of Celery's (5.7) imports only as it starts.
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
    """``program(args)``; with the methods of ``subprocess.Popen`` that tests use."""

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
        """Its exit code, or minus the signal that killed it; ``None`` while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises ``subprocess.TimeoutExpired``."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("node-agent", timeout or 0)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Signal it, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """As ``kill -9``."""
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
    os.setsid()  # its process group is the program and all that it starts
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.path[:0] = [str(folder), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.exit(program(args))
