"""Tasks that run without Redis, until the test lets them end."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from .fleet import Fleet, wait_for


@dataclass
class Work:
    """Some tasks that run at nodes."""

    path: Path
    jobs: list[AsyncResult]

    def let_end(self) -> None:
        """Let all of them end, now or as soon as they begin."""
        self.path.touch()

    @property
    def began(self) -> list[str]:
        """The node of each task that has begun."""
        return self._read("began")

    @property
    def ended(self) -> list[str]:
        """The node of each task that has ended, which Redis may not know."""
        return self._read("ended")

    def _read(self, what: str) -> list[str]:
        path = Path(f"{self.path}.{what}")
        return path.read_text().split() if path.exists() else []


def start_work(
    fleet: Fleet,
    number: int = 1,
    task: str = "works",
    at_once: int | None = None,
    **options: Any,
) -> Work:
    """Send so many tasks, each of which takes a slot. All are at their nodes when this returns, and
    have begun, or as many as these run at once.
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
