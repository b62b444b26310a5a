"""What ran, where and when: lines that processes append to one file, so that no kill loses one.

Times are seconds of the monotonic clock, which all processes of a machine share.
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
    """One run of a message: from its first line of code to its last, if it came so far."""

    task_id: str
    message: str  # its delivery tag: the same message delivered again keeps it, a retry has its own
    retries: int
    node_id: str
    began: float
    ended: float | None = None
    outcome: str = ""  # "done", "failed", "retry"; "" where it never ended

    @property
    def is_final(self) -> bool:
        """Did the task end with it?"""
        return self.outcome in ("done", "failed")


class Ledger:
    """Writes lines; one ``write`` of a short line to a file in append mode is atomic."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, run: str, task_id: str, message: str, retries: int, node_id: str) -> None:
        """A run begins; ``run`` is an id of its own."""
        self._write(["begin", run, time.monotonic(), task_id, message, retries, node_id])

    def end(self, run: str, outcome: str) -> None:
        """It ends, as far as its own code goes."""
        self._write(["end", run, time.monotonic(), outcome])

    def _write(self, line: list[object]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(path: Path) -> list[Run]:
    """All runs, by when they began."""
    runs: dict[str, Run] = {}
    for line in path.read_text().splitlines():
        what, run, when, *rest = json.loads(line)
        if what == "begin":
            task_id, message, retries, node_id = rest
            runs[run] = Run(task_id, message, retries, node_id, when)
        else:
            runs[run].ended, runs[run].outcome = when, rest[0]
    return sorted(runs.values(), key=lambda run: run.began)


def by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each task, in order; an empty list for one that never ran."""
    tasks: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        tasks[run.task_id].append(run)
    return tasks
