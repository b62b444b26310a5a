"""Starts the real workers of a contender, and reads the records of their jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from benchmarks.contenders import command
from celery_minsched.simulation.trace import Node

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0  # seconds
CACHED = 3  # sessions in a node's cache, for each of its slots


@contextmanager
def workers(kind: str, nodes: Sequence[Node], broker: str, pool: str = "threads") -> Iterator[Path]:
    """Start the workers of each node. Returns the directory of their records and logs."""
    with tempfile.TemporaryDirectory(prefix="minsched-replay-") as name:
        directory = Path(name)
        processes = []
        try:
            for node in nodes:
                with open(directory / f"{node.name}.log", "wb") as log:
                    processes.append(
                        subprocess.Popen(
                            command(kind, node, pool),
                            cwd=ROOT,
                            env=environment(kind, node, broker, directory),
                            stdout=log,
                            stderr=log,
                            start_new_session=True,  # its process group contains all its children
                        )
                    )
            yield directory
        finally:
            for process in processes:  # the run and the server have ended
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def environment(kind: str, node: Node, broker: str, directory: Path) -> dict[str, str]:
    """The environment of a node's workers."""
    return {
        **os.environ,
        "REPLAY_KIND": kind,
        "REPLAY_BROKER": broker,
        "REPLAY_POOLS": " ".join(node.pools),
        "REPLAY_NOTES": str(directory / "notes"),
        "REPLAY_CACHE": str(directory / f"{node.name}.cache"),
        "REPLAY_CACHED": str(CACHED * node.slots),
        "RQ_REDIS_URL": broker,
        "PYTHONPATH": str(ROOT),
    }


def logs(directory: Path) -> str:
    """The logs of the workers."""
    return "".join(path.read_text(errors="replace") for path in directory.glob("*.log"))


def await_notes(directory: Path, count: int) -> dict[int, tuple[float, float]]:
    """The start time and the end time of each job. Waits until a number of jobs have ended.

    Raises a ``ClickException`` if no job ends for ``PATIENCE`` seconds.
    """
    path, ended_jobs, since = directory / "notes", 0, time.monotonic()
    while ended_jobs < count:
        time.sleep(0.05)
        lines = path.read_bytes().count(b"\n") if path.exists() else 0
        if lines > ended_jobs:
            ended_jobs, since = lines, time.monotonic()
        elif time.monotonic() > since + PATIENCE:
            raise click.ClickException(
                f"{ended_jobs} of {count} jobs have ended:\n{logs(directory)[-2000:]}"
            )
    notes = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    return {int(number): (float(began), float(ended)) for number, began, ended in notes}
