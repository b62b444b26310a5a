"""``celery minsched adopt``."""

from __future__ import annotations

import click

from ..core.errors import InvalidDemand
from ..core.printing import printable
from ..migration.adopt import Adopter, Adoption
from .command import Command, ExitCode, Failure
from .options import json_option, plugin
from .output import console, plural, print_json, table
from .waiting import progress


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "No message has to stay in the queue.",
        ExitCode.NOT_DONE: "Some messages stay in the queue. The output shows the reason.",
    },
)
@click.argument("queue")
@click.option("--pool", help="Use this pool for tasks that have no demand.")
@click.option("--limit", type=click.IntRange(min=1), help="Adopt at most this many messages.")
@click.option("--dry-run", is_flag=True, help="Print the messages and targets. Change nothing.")
@json_option
@click.pass_context
def adopt(
    context: click.Context,
    queue: str,
    pool: str | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move the waiting messages of an ordinary Celery queue to nodes.

    Plain workers can consume the queue meanwhile. Each message goes to a worker or to a node, not
    to both. Ids, priorities and times stay the same. The demand of a message comes from
    minsched_routes and from its task, as in a new call. If the command is interrupted, run it
    again.
    """
    try:
        adopter = Adopter(plugin(), queue, pool)
    except (InvalidDemand, ValueError) as exc:
        raise Failure(str(exc)) from exc
    if dry_run:
        adoption = adopter.preview(limit)
    else:
        total = adopter.waiting() if limit is None else min(limit, adopter.waiting())
        with progress("messages", total) as bar:
            adoption = adopter.adopt(limit, bar.advance)
    if as_json:
        print_json(adoption)
    else:
        _print(adoption, dry_run)
    is_complete = not adoption.refused and not any(kind.stays for kind in adoption.kinds)
    context.exit(ExitCode.DONE if is_complete else ExitCode.NOT_DONE)


def _print(adoption: Adoption, dry_run: bool) -> None:
    out = console()
    if not adoption.waiting:
        return out.print(f"Queue {printable(adoption.queue)} is empty.")
    if dry_run:
        out.print(f"Queue {printable(adoption.queue)} has {plural(adoption.waiting, 'message')}.")
    else:
        out.print(
            f"Adopted {plural(adoption.adopted, 'message')} of queue {printable(adoption.queue)}: "
            f"{adoption.placed} at nodes, {adoption.busy} in line, {adoption.delayed} delayed, "
            f"{adoption.impossible} that no registered node can run."
        )
    if adoption.refused:
        out.print(f"Stopped early: {printable(adoption.refused)}", style="red")
    if adoption.kinds:
        rows = table("MESSAGES", "TASK", "", right=("MESSAGES",), fold=("TASK", ""))
        for kind in adoption.kinds:
            target = f"stay: {kind.stays}" if kind.stays else f"to {kind.demand}"
            rows.add_row(str(kind.messages), printable(kind.task) or "-", target)
        out.print(rows)
    return None
