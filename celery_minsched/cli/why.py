"""``celery minsched why``."""

from __future__ import annotations

import click

from ..monitor import explain
from .command import Command, ExitCode
from .options import json_option, plugin
from .output import console, load_cells, print_json, table

VERDICT_EXIT_CODES = {
    "placed": ExitCode.DONE,
    "ended": ExitCode.DONE,
    "unknown": ExitCode.NOT_DONE,
    "waiting": ExitCode.WAITING,
    "delayed": ExitCode.WAITING,
    "impossible": ExitCode.BLOCKED,
    "lost": ExitCode.BLOCKED,
    "broken": ExitCode.BLOCKED,
}


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "The task has a slot, or has ended.",
        ExitCode.NOT_DONE: "The scheduler does not know the task.",
        ExitCode.WAITING: "The task waits or is delayed.",
        ExitCode.BLOCKED: "The task is lost, no registered node can run it, or its record is "
        "unreadable.",
    },
)
@click.argument("task_id")
@json_option
@click.pass_context
def why(context: click.Context, task_id: str, as_json: bool) -> None:
    """Explain why a task is at its node, or why it waits."""
    explanation = explain.why(plugin().views, task_id)
    if as_json:
        print_json(explanation)
    else:
        _print(explanation)
    context.exit(VERDICT_EXIT_CODES[explanation.verdict])


def _print(explanation: explain.Explanation) -> None:
    out = console()
    job = explanation.job
    if job:
        name = f" ({job.task})" if job.task else ""
        out.print(f"Task {explanation.task_id}{name}, job {job.job_id}: {explanation.verdict}.")
        out.print(f"It asks for {explanation.demand}.\n")
    for sentence in explanation.story:
        out.print(sentence)
    if not explanation.candidates:
        return
    rows = table(
        *("NODE", "SLOTS", "CPU", "GPU", "MEM", "NOW"),
        right=("SLOTS", "CPU", "GPU", "MEM"),
        fold=("NODE", "NOW"),
    )
    for node in explanation.candidates:
        rows.add_row(
            *(node.node_id, f"{node.taken}/{node.slots}"),
            *load_cells(node.load),
            node.obstacle or "can run it",
        )
    out.print()
    out.print(rows)
