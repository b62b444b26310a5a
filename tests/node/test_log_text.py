"""A node's log contains no terminal control sequences from tasks."""

from __future__ import annotations

import io
import logging

from celery import signals

from node_agent.log_text import PrintableFormatter, follow_logging


def test_a_log_has_printable_text_and_colours() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter("\x1b[1;31m%(levelname)s\x1b[0m %(message)s"))
    logger = logging.Logger("node")
    logger.addHandler(handler)
    receivers = list(signals.after_setup_logger.receivers)
    try:
        follow_logging()
        for _ in range(2):  # Celery sets up logging again in each process of its pool
            signals.after_setup_logger.send(None, logger=logger)
    finally:
        signals.after_setup_logger.receivers = receivers
        signals.after_setup_task_logger.disconnect(dispatch_uid="minsched-log-text")
    try:
        raise ValueError("\x1b[2J\u202e")
    except ValueError:
        logger.exception("Task %s received\n\t\x9b2J", "t\x1b]0;title\x07")
    text = output.getvalue()
    assert text.startswith("\x1b[1;31mERROR\x1b[0m Task t?]0;title? received\n\t?2J\nTraceback")
    assert "ValueError: ?[2J?" in text
    assert isinstance(handler.formatter, PrintableFormatter)
