"""Makes a node's log printable. Ids, names and errors in it come from messages and from Redis.

The log contains no character that moves a terminal's cursor, sets its title or reorders letters.
Colours stay.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from celery import signals

from celery_minsched.core.printing import printable

_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


class PrintableFormatter(logging.Formatter):
    """Formats as another formatter does, and keeps only printable text and colours."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record."""
        parts = _COLOUR.split(self._inner.format(record))
        parts[::2] = [printable(part, keep="\n\t") for part in parts[::2]]
        return "".join(parts)


def follow_logging() -> None:
    """Have the handlers that Celery sets up write printable text."""
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_on_setup, weak=False, dispatch_uid="minsched-log-text")


def _on_setup(logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        if not isinstance(handler.formatter, PrintableFormatter):
            handler.setFormatter(PrintableFormatter(handler.formatter))
