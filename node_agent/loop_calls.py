"""Runs calls from other threads in the worker's event loop."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Any


class LoopCalls:
    """Runs calls from other threads in the event loop at once: a byte in a pipe wakes the loop."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        os.set_blocking(self._writable, False)

    def register(self, hub: Any) -> None:
        """Read the pipe in this hub. Called again after each connect of the worker."""
        hub.add_reader(self._readable, self._run)

    def __call__(self, call: Callable[[], None]) -> None:
        """Run ``call`` in the event loop. Never blocks."""
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the loop wakes anyway
            os.write(self._writable, b".")

    def _run(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._readable, 4096)
        while self._calls:
            self._calls.popleft()()
