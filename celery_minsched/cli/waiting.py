"""The polling loop and the progress bar of commands that wait."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

#: Seconds between two reads of Redis while a command waits for a change.
POLL_INTERVAL = 0.1


def poll(timeout: float = math.inf, interval: float = POLL_INTERVAL) -> Iterator[None]:
    """Yield now and after each ``interval`` seconds.

    The last yield is after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        yield
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return
        time.sleep(min(interval, remaining))


class ProgressBar:
    """A bar of ``total`` steps, or of a number that is not known yet."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total)

    def advance(self, steps: int = 1) -> None:
        """Add steps that are done."""
        self._progress.advance(self._task, steps)

    def update(self, label: str, done: int, total: int | None) -> None:
        """Show another phase of the work, or its steps done so far."""
        self._progress.update(self._task, description=label, completed=done, total=total)


@contextmanager
def progress(label: str = "", total: int | None = None) -> Iterator[ProgressBar]:
    """Show a bar on standard error if it is a terminal. The bar disappears at the end."""
    no_color = bool(click.get_current_context().obj.no_color)
    bar = Progress(
        *(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()),
        console=Console(stderr=True, no_color=no_color),
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        yield ProgressBar(bar, label, total)
