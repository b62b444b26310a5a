"""``celery minsched release``."""

from __future__ import annotations

import click

from ..core.printing import printable
from ..migration.release import NodesAtWork, Release, Releaser
from .command import Command, ExitCode, Failure
from .options import json_option, plugin
from .output import console, plural, print_json
from .waiting import progress


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "All keys of the scheduler are deleted.",
        ExitCode.NOT_DONE: "Keys are left. The output shows the reason and the remedy.",
    },
)
@json_option
@click.pass_context
def release(context: click.Context, as_json: bool) -> None:
    """Move all waiting jobs back to ordinary queues, and delete all keys of the scheduler.

    First remove MinSched(app) from the applications that send tasks, and drain all nodes. The
    command refuses to run while a node takes jobs. Each task goes to the queue that Celery uses
    without the scheduler. Ids, priorities and times stay the same. When the nodes have stopped, run
    the command again to delete the keys.
    """
    releaser = Releaser(plugin())
    try:
        with progress("messages", releaser.waiting()) as bar:
            result = releaser.release(bar.advance)
    except NodesAtWork as exc:
        raise Failure(
            f"nothing was changed, because these nodes take jobs: {exc}. Drain them "
            "(celery -A APP minsched drain NODE), or stop them."
        ) from exc
    if as_json:
        print_json(result)
    else:
        _print(result)
    context.exit(ExitCode.NOT_DONE if result.left else ExitCode.DONE)


def _print(result: Release) -> None:
    out = console()
    for queue, number in sorted(result.returned.items()):
        out.print(f"Returned {plural(number, 'message')} to queue {printable(queue)}.")
    if result.revoked:
        out.print(f"{plural(result.revoked, 'task')} had been revoked.")
    for sentence in result.left:
        out.print(printable(sentence), style="yellow")
    if result.left:
        out.print("The keys of the scheduler are not deleted. Run this command again.")
    else:
        out.print(f"Deleted {plural(result.deleted, 'key')}. No key of the scheduler is left.")
