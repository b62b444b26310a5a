"""The ledger: all processes append lines for each run to one file. A kill loses no line.

Times are seconds of the monotonic clock. All processes of a machine share this clock.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Run:
    """One run of a task, from its first line of code to its last line."""

    task_id: str
    message: str  # delivery tag. A redelivered message keeps its tag, and a retry has another tag
    retries: int
    node_id: str
    began: float
    ended: float | None = None
    outcome: str = ""  # "done", "failed" or "retry", or "" for a run without an end

    @property
    def is_final(self) -> bool:
        """True if the task ended with this run."""
        return self.outcome in ("done", "failed")


class Ledger:
    """Writes the lines. A ``write`` of a short line to a file in append mode is atomic."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, run: str, task_id: str, message: str, retries: int, node_id: str) -> None:
        """Record the begin of a run. ``run`` is a unique id."""
        self._write(["begin", run, time.monotonic(), task_id, message, retries, node_id])

    def end(self, run: str, outcome: str) -> None:
        """Record the end of the run's code."""
        self._write(["end", run, time.monotonic(), outcome])

    def _write(self, line: list[object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(path: Path) -> list[Run]:
    """All runs, by their begin."""
    runs: dict[str, Run] = {}
    for line in path.read_text().splitlines():
        kind, run, when, *rest = json.loads(line)
        if kind == "begin":
            task_id, message, retries, node_id = rest
            runs[run] = Run(task_id, message, retries, node_id, when)
        else:
            runs[run].ended, runs[run].outcome = when, rest[0]
    return sorted(runs.values(), key=lambda run: run.began)


def by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each task, in order. The list of a task without a run is empty."""
    tasks: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        tasks[run.task_id].append(run)
    return tasks
