"""``adopt`` and ``release``: in from plain Celery, and out again."""

from __future__ import annotations

import click

from ..core.errors import InvalidDemand
from ..migration.adopt import Adopter, Adoption
from ..migration.release import NodesAtWork, Release, Releaser
from .command import Command, ExitCode, Failure
from .common import console, json_option, plugin, plural, print_json, printable, table
from .waiting import progress


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "All messages, or --limit of them, are adopted, or would be.",
        ExitCode.NOT_DONE: "Some messages stay in the queue. The output says why.",
    },
)
@click.argument("queue")
@click.option("--pool", help="For tasks without a demand of their own.")
@click.option("--limit", type=click.IntRange(min=1), help="Adopt so many messages at most.")
@click.option("--dry-run", is_flag=True, help="Say what would be adopted, and change nothing.")
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
    """Send what waits in an ordinary queue to nodes.

    Plain workers may go on to consume the queue: each message goes to the one or to the other. Ids,
    priorities and times are kept. What a task asks for is told by minsched_routes and the task
    itself, as for a new call. Broken off anywhere, it can be run again.
    """
    try:
        adopter = Adopter(plugin(), queue, pool)
    except (InvalidDemand, ValueError) as exc:
        raise Failure(str(exc)) from exc
    if dry_run:
        done = adopter.look(limit)
    else:
        most = adopter.waiting() if limit is None else min(limit, adopter.waiting())
        with progress("messages", most) as bar:
            done = adopter.adopt(limit, bar.advance)
    if as_json:
        print_json(done)
    else:
        _print_adoption(done, dry_run)
    is_complete = not done.refused and not any(kind.stays for kind in done.kinds)
    context.exit(ExitCode.DONE if is_complete else ExitCode.NOT_DONE)


def _print_adoption(done: Adoption, dry_run: bool) -> None:
    out = console()
    if not done.waiting:
        return out.print(f"Queue {printable(done.queue)} is empty.")
    if dry_run:
        out.print(f"Queue {printable(done.queue)}: {plural(done.waiting, 'message')}.")
    else:
        out.print(
            f"{plural(done.adopted, 'message')} of queue {printable(done.queue)} adopted: "
            f"{done.placed} at nodes, {done.busy} in line, {done.delayed} delayed, "
            f"{done.impossible} for which no node is registered."
        )
    if done.refused:
        out.print(f"Broken off: {printable(done.refused)}", style="red")
    if done.kinds:
        made = table("MESSAGES", "TASK", "", right=("MESSAGES",), fold=("TASK", ""))
        for kind in done.kinds:
            what = f"stay: {kind.stays}" if kind.stays else f"to {kind.demand}"
            made.add_row(str(kind.messages), printable(kind.task) or "-", what)
        out.print(made)
    return None


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "No key of the scheduler is left.",
        ExitCode.NOT_DONE: "Keys are left. The output says why, and what to do.",
    },
)
@json_option
@click.pass_context
def release(context: click.Context, as_json: bool) -> None:
    """Send what waits back to ordinary queues, and delete all keys of the scheduler.

    First take MinSched(app) out of the applications that send tasks, and drain the nodes; it is
    refused while one takes jobs. Each task goes to the queue to which Celery sends it without the
    scheduler; ids, priorities and times are kept. Run it again once the nodes have stopped: the
    keys go when nothing is left that needs them.
    """
    releaser = Releaser(plugin())
    try:
        with progress("messages", releaser.waiting()) as bar:
            done = releaser.release(bar.advance)
    except NodesAtWork as exc:
        raise Failure(
            f"nothing was changed, since these nodes take jobs: {exc}. Drain them (celery -A APP "
            "minsched drain NODE), or stop them."
        ) from exc
    if as_json:
        print_json(done)
    else:
        _print_release(done)
    context.exit(ExitCode.NOT_DONE if done.left else ExitCode.DONE)


def _print_release(done: Release) -> None:
    out = console()
    for queue, number in sorted(done.returned.items()):
        out.print(f"{plural(number, 'message')} returned to queue {printable(queue)}.")
    if done.revoked:
        out.print(f"{plural(done.revoked, 'task')} had been revoked.")
    for sentence in done.left:
        out.print(printable(sentence), style="yellow")
    if done.left:
        out.print("The scheduler's keys are left. Run this again.")
    else:
        out.print(f"{plural(done.deleted, 'key')} deleted; none of the scheduler's is left.")
