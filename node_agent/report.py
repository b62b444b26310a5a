"""What the worker reports of itself to the pulse process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Why the worker takes no jobs, or "" if it takes them.
State = Literal["", "stuck", "stopping"]


@dataclass(frozen=True)
class Report:
    """What the worker reports of itself."""

    max_jobs: int
    jobs: list[str] | None  # that it holds, or None while it does not know them
    state: State = ""  # why it takes no jobs
    takes_at_once: bool = False  # each message, as soon as it comes
    last: bool = False
    concurrency: int | None = None  # processes or threads of its pool

    @property
    def online(self) -> bool:
        """Does the worker take jobs?"""
        return not self.state and not self.last
