"""``celery minsched jobs``."""

from __future__ import annotations

import click
from rich.table import Table

from ..core.printing import duration
from ..monitor.models import JobView
from .options import DEFAULT_ROWS, json_option, offset_option, plugin
from .output import console, print_json, table

#: Characters of a task id of Celery. A table shows it on one line.
_UUID_LENGTH = 36


@click.command("jobs")
@click.option("--node", default="", help="Show only jobs that hold a slot of this node.")
@click.option("--pool", default="", help="Show only jobs in this pool, or that may run in it.")
@click.option(
    "--status",
    type=click.Choice(["dispatched", "running", "waiting", "delayed"]),
    default=None,
    help="Show only jobs with this status.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_ROWS,
    show_default=True,
    help="Show at most this many rows.",
)
@offset_option
@json_option
def jobs_command(
    node: str, pool: str, status: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """Show the jobs that run, wait or are delayed.

    FOR is the time since the job began to run or to wait, or since it was sent. For a delayed job
    it is the time until the job is due.
    """
    views = plugin().views
    jobs = views.jobs(limit + 1, offset=offset, node_id=node, pool=pool, status=status or "")
    if as_json:
        return print_json(jobs[:limit])
    out = console()
    if not jobs:
        return out.print("There is no such job.")
    out.print(_job_table(jobs[:limit], views.now()))
    if len(jobs) > limit:
        out.print("… and more. See --limit and --offset.")
    return None


def _job_table(jobs: list[JobView], now: int) -> Table:
    are_uuids = all(len(job.task_id) <= _UUID_LENGTH for job in jobs)
    rows = table(
        *("STATUS", "NODE", "FOR", "TASK ID", "TASK"),
        right=("FOR",),
        fold=("NODE", "TASK") if are_uuids else ("NODE", "TASK ID", "TASK"),
    )
    for job in jobs:
        start = job.started_ts if job.status == "running" else job.waiting_ts or job.created_ts
        milliseconds = job.due_ts - now if job.status == "delayed" else now - start
        node = job.node_id if job.has_slot else ""
        cells = (job.status, node, duration(milliseconds), job.task_id, job.task)
        rows.add_row(*(cell or "-" for cell in cells))
    return rows
