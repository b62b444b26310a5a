"""Real workers of a contender, the jobs sent to them, and the notes that they take."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from celery import Celery

from celery_minsched.simulation.trace import Node

ROOT = Path(__file__).resolve().parent.parent
APP = "benchmarks.trace_app"
PATIENCE = 60.0  # seconds
CONTENDERS = {
    "ours": "celery_minsched",
    "plain": "Celery, its defaults",
    "tuned": "Celery, prefetch 1, late acks",
}


def command(kind: str, node: Node, pool: str) -> list[str]:
    """How a node's worker is started, with this of Celery's pools."""
    if kind == "ours":
        pools = [f"--pool={pool}" for pool in node.pools]
        program = ["node_agent", "-A", APP, f"--node-id={node.name}", *pools]
    else:
        program = ["celery", "-A", APP, "worker", f"--hostname={node.name}@replay"]
        program.append(f"--queues={','.join(node.pools)}")
    return [sys.executable, "-m", *program, "-P", pool, f"--concurrency={node.slots}"]


@contextmanager
def workers(kind: str, nodes: Sequence[Node], broker: str, pool: str = "threads") -> Iterator[Path]:
    """A worker for each node, started; the directory where their notes and logs are."""
    with tempfile.TemporaryDirectory(prefix="minsched-replay-") as name:
        directory = Path(name)
        environment = {
            **os.environ,
            "REPLAY_BROKER": broker,
            "REPLAY_KIND": kind,
            "REPLAY_NOTES": str(directory / "notes"),
        }
        processes = []
        try:
            for node in nodes:
                with open(directory / f"{node.name}.log", "wb") as log:
                    processes.append(
                        subprocess.Popen(
                            command(kind, node, pool),
                            cwd=ROOT,
                            env=environment,
                            stdout=log,
                            stderr=log,
                        )
                    )
            yield directory
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def await_ready(app: Celery, nodes: Sequence[Node], directory: Path) -> None:
    """Wait until all workers take tasks."""
    names = {node.name for node in nodes}
    plugin = getattr(app, "minsched", None)

    def ready() -> set[str]:
        if plugin:
            return {node.node_id for node in plugin.views.nodes() if node.online}
        answers = app.control.ping(timeout=0.3, limit=len(nodes)) or []
        return {name.partition("@")[0] for answer in answers for name in answer}

    wait_for(lambda: ready() >= names, lambda: f"the workers did not start:\n{logs(directory)}")


def logs(directory: Path) -> str:
    """What the workers have said."""
    return "".join(path.read_text(errors="replace") for path in directory.glob("*.log"))


def wait_for(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    """Wait until it holds; a ``ClickException`` with the complaint where that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(complaint())
        time.sleep(0.05)


def send(app: Celery, number: int, seconds: float, pool: str) -> None:
    """Send a task to a node of the pool, or to the pool's queue."""
    where = {"minsched": {"pool": pool}} if hasattr(app, "minsched") else {"queue": pool}
    app.send_task(
        "replay.work", (number, seconds), task_id=str(number), ignore_result=True, **where
    )


def await_notes(directory: Path, count: int) -> dict[int, tuple[float, float]]:
    """By job, when it began and ended, once so many have ended."""
    path = directory / "notes"

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    wait_for(
        lambda: lines() >= count,
        lambda: f"{lines()} of {count} jobs have ended:\n{logs(directory)[-2000:]}",
    )
    notes = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    return {int(number): (float(began), float(ended)) for number, began, ended in notes}
