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
    def ended(self) -> list[str]:
        """The node of each task that has ended, which Redis may not know."""
        ended = Path(f"{self.path}.ended")
        return ended.read_text().split() if ended.exists() else []


def start_work(fleet: Fleet, number: int = 1, task: str = "works", **options: Any) -> Work:
    """Send so many tasks, each of which takes a slot, and wait until their nodes have them."""
    path = Path(fleet.logs.name) / uuid.uuid4().hex
    jobs = [fleet.send(task, str(path), ignore_result=True, **options) for _ in range(number)]
    for job in jobs:
        wait_for(
            lambda job=job: fleet.job(job.id).status == "running",  # type: ignore[misc, union-attr]
            lambda job=job: f"{fleet.job(job.id)} to run",  # type: ignore[misc]
        )
    return Work(path, jobs)
