"""Commands of ``celery -A app minsched``, run in the test's process."""

from __future__ import annotations

from typing import Any

import click
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_minsched.cli import minsched


def run_with(app: Any, *args: str, command: click.Command = minsched) -> Result:
    """What a command says to a pipe, run as celery runs it for this application."""
    context = CLIContext(app=app, no_color=False, workdir=None)
    return CliRunner(env={"COLUMNS": "80"}).invoke(command, args, obj=context)
