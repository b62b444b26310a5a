"""Tasks that run without Redis until the test ends them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from .fleet import Fleet, wait_for


@dataclass
class Work:
    """Tasks that run at nodes."""

    path: Path
    jobs: list[AsyncResult]

    def let_end(self) -> None:
        """End all tasks. A task that has not begun ends when it begins."""
        self.path.touch()

    @property
    def began(self) -> list[str]:
        """The node of each task that has begun."""
        return self._read("began")

    @property
    def ended(self) -> list[str]:
        """The node of each ended task. Redis may not know it."""
        return self._read("ended")

    def _read(self, suffix: str) -> list[str]:
        path = Path(f"{self.path}.{suffix}")
        return path.read_text().split() if path.exists() else []


def start_work(
    fleet: Fleet,
    number: int = 1,
    task: str = "works",
    at_once: int | None = None,
    **options: Any,
) -> Work:
    """Send ``number`` tasks, each for a slot. Waits until all tasks are at their nodes.

    Also waits until ``at_once`` tasks have begun, or all tasks by default.
    """
    path = Path(fleet.logs.name) / uuid.uuid4().hex
    jobs = [fleet.send(task, str(path), ignore_result=True, **options) for _ in range(number)]
    for job in jobs:
        wait_for(
            lambda job=job: fleet.job(job.id).status == "running",  # type: ignore[misc, union-attr]
            lambda job=job: f"{fleet.job(job.id)} to run",  # type: ignore[misc]
        )
    work = Work(path, jobs)
    wait_for(lambda: len(work.began) == (at_once or number), "the tasks to begin")
    return work
