"""Commands of ``celery -A app minsched``, run in the test's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_minsched.cli import minsched

#: Task ids as long as Celery's.
TASK = "6f1c1f2e-9d0a-4b7e-8a51-0d1f3c2b4a5{}"
Run = Callable[..., Result]


def run_with(app: Any, *args: str, command: click.Command = minsched) -> Result:
    """Run a command as ``celery`` runs it. Returns its output to a pipe."""
    context = CLIContext(app=app, no_color=False, workdir=None)
    return CliRunner(env={"COLUMNS": "80"}).invoke(command, args, obj=context)
