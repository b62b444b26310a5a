"""The commands that look. None of them changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import click
from rich.table import Table

from ..monitor import explain as why_module
from ..monitor.line_queries import MOST_LINES
from ..monitor.models import Event, JobView, LineView, NodeView, PoolView, place_of
from ..monitor.queries import Views
from .command import Command, ExitCode
from .common import (
    ROWS,
    clock,
    console,
    duration,
    json_option,
    names,
    page_options,
    percent,
    plugin,
    plural,
    print_json,
    print_more,
    say,
    shown,
    state,
    table,
)

#: ms for which one look for events waits: below any sensible time-out of a connection.
LOOK = 500

UUID = 36  # characters: Celery's own task ids are shown on one line

#: Exit codes of ``why`` by its verdict.
VERDICTS = {
    "placed": ExitCode.DONE,
    "ended": ExitCode.DONE,
    "unknown": ExitCode.NOT_DONE,
    "waiting": ExitCode.WAITING,
    "delayed": ExitCode.WAITING,
    "impossible": ExitCode.BLOCKED,
    "lost": ExitCode.BLOCKED,
    "broken": ExitCode.BLOCKED,
}


@click.command()
@page_options
@json_option
def nodes(limit: int | None, offset: int, as_json: bool) -> None:
    """The nodes: their states, slots and load.

    \b
    STATE  full      takes jobs, and has no free slot
           free      takes jobs, and has a free slot
           draining  takes no more jobs, since an operator drained it
           starting  is registered, and does not take jobs yet
           stopping  was asked to stop: it finishes the jobs that it runs, and leaves
           stuck     sends heartbeats, but its worker does not work
           dead      fell silent
           left      has stopped, and said so
           broken    has a record that cannot be read; see minsched check
    HEARD  the time since the last heartbeat
    """
    views = plugin().views
    found = views.nodes()
    rows = shown(found, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not found:
        return console().print("No node is registered.")
    console().print(nodes_table(rows, views.now()))
    return print_more(len(found), offset + len(rows), "node")


def nodes_table(found: Sequence[NodeView], now: int) -> Table:
    """The nodes, one a row."""
    made = table(
        *("NODE", "STATE", "SLOTS", "CPU", "GPU", "MEM", "HEARD", "POOLS", "CAPABILITIES"),
        right=("SLOTS", "CPU", "GPU", "MEM", "HEARD"),
        fold=("NODE", "POOLS", "CAPABILITIES"),
    )
    for node in found:
        made.add_row(
            *(node.node_id, state(node.state), f"{node.current_jobs}/{node.max_jobs}"),
            *(percent(node.load.get(part)) for part in ("cpu", "gpu", "mem")),
            duration(now - node.last_heartbeat_ts) if node.last_heartbeat_ts else "-",
            *(names(node.pools), names(node.capabilities)),
        )
    return made


@click.command()
@page_options
@json_option
def pools(limit: int | None, offset: int, as_json: bool) -> None:
    """The pools: nodes online, slots taken, what waits.

    SLOTS counts the nodes that take jobs. LOAD is (taken + waiting) / slots: above 1 jobs wait.
    """
    found = plugin().views.pools()
    rows = shown(found, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not found:
        return console().print("No pool has a node.")
    console().print(pools_table(rows))
    return print_more(len(found), offset + len(rows), "pool")


def pools_table(found: Sequence[PoolView]) -> Table:
    """The pools, one a row."""
    made = table(
        *("POOL", "STATE", "ONLINE", "SLOTS", "WAITING", "LOAD", "LANGUAGES"),
        right=("ONLINE", "SLOTS", "WAITING", "LOAD"),
        fold=("POOL", "LANGUAGES"),
    )
    for pool in found:
        made.add_row(
            *(pool.pool, state("paused" if pool.paused else "open")),
            *(f"{pool.online}/{pool.nodes}", f"{pool.taken}/{pool.slots}", str(pool.waiting)),
            *(f"{pool.load:.2f}", names(pool.langs)),
        )
    return made


@click.command()
@click.option("--node", default="", help="Only those that hold a slot of this node.")
@click.option("--pool", default="", help="Only those in this pool, or that it could serve.")
@click.option(
    "--status",
    type=click.Choice(["dispatched", "running", "waiting", "delayed"]),
    default=None,
    help="Only those of this status.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=ROWS, show_default=True, help="At most so many."
)
@click.option(
    "--offset", type=click.IntRange(min=0), default=0, help="Skip so many before the first."
)
@json_option
def jobs(node: str, pool: str, status: str | None, limit: int, offset: int, as_json: bool) -> None:
    """The jobs that run, wait, or are delayed.

    FOR is the time since the job runs, waits, or was sent; for a delayed one, until it is due.
    """
    views = plugin().views
    found = views.jobs(limit + 1, offset=offset, node_id=node, pool=pool, status=status or "")
    if as_json:
        return print_json(found[:limit])
    out = console()
    if not found:
        return out.print("No such job.")
    out.print(_jobs_table(found[:limit], views.now()))
    if len(found) > limit:
        out.print(f"… and more; --limit was {limit}.")
    return None


def _jobs_table(found: list[JobView], now: int) -> Table:
    are_uuids = all(len(job.task_id) <= UUID for job in found)
    made = table(
        *("STATUS", "NODE", "FOR", "TASK ID", "TASK"),
        right=("FOR",),
        fold=("NODE", "TASK") if are_uuids else ("NODE", "TASK ID", "TASK"),
    )
    for job in found:
        since = job.started_ts if job.status == "running" else job.waiting_ts or job.created_ts
        span = job.due_ts - now if job.status == "delayed" else now - since
        node = job.node_id if job.has_slot else ""
        ids = (text or "-" for text in (job.task_id, job.task))
        made.add_row(job.status, node or "-", duration(span), *ids)
    return made


@click.command()
@page_options
@json_option
def waiting(limit: int | None, offset: int, as_json: bool) -> None:
    """What waits, by what it waits for; the longest wait first.

    Of more than a thousand lines the command looks at a thousand, the first that Redis finds. It
    looks at more if --offset and --limit ask for more.

    WHY is busy (every node that could do it is full or away), or impossible: no registered node
    could ever do it, and waiting alone will not help.
    """
    views = plugin().views
    most = max(MOST_LINES, offset + (limit or 0))
    found = sorted(views.lines(most), key=lambda line: line.oldest_ts)
    total = max(views.line_count(), len(found))
    if total > len(found):
        say(
            f"Looked at {plural(len(found), 'line')} of {total:,}, in which "
            f"{plural(views.waiting_count(), 'job')} wait; --limit {total} looks at all.",
            is_error=True,
        )
    rows = shown(found, limit, offset, as_json)
    if as_json:
        return print_json(rows)
    if not found:
        return console().print("Nothing waits.")
    console().print(lines_table(rows, views.now()))
    return print_more(total, offset + len(rows), "line")


def lines_table(found: Sequence[LineView], now: int) -> Table:
    """The lines, one a row."""
    made = table(
        *("FOR", "CAPABILITIES", "NODE", "WAITING", "OLDEST", "WHY"),
        right=("WAITING", "OLDEST"),
        fold=("FOR", "CAPABILITIES", "NODE"),
    )
    for line in found:
        made.add_row(
            *(line.where.replace("|", " or "), names(line.capabilities), line.required_node or "-"),
            *(str(line.waiting), duration(now - line.oldest_ts) if line.oldest_ts else "-"),
            state("busy" if line.possible else "impossible"),
        )
    return made


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "The task has a slot, or has ended.",
        ExitCode.NOT_DONE: "The scheduler does not know the task.",
        ExitCode.WAITING: "The task waits or is delayed.",
        ExitCode.BLOCKED: "The task is lost, no registered node could ever run it, or its record "
        "is unreadable.",
    },
)
@click.argument("task_id")
@json_option
def why(task_id: str, as_json: bool) -> None:
    """Why a task is where it is, or what it waits for."""
    said = why_module.why(plugin().views, task_id)
    if as_json:
        print_json(said)
    else:
        _explain(said)
    click.get_current_context().exit(VERDICTS[said.verdict])


def _explain(said: why_module.Explanation) -> None:
    out = console()
    if said.job:
        name = f" ({said.job.task})" if said.job.task else ""
        out.print(f"Task {said.task_id}{name}, job {said.job.job_id}: {said.verdict}.")
        out.print(f"It asks for {said.demand}.\n")
    for sentence in said.story:
        out.print(sentence)
    if said.candidates:
        made = table(
            *("NODE", "SLOTS", "CPU", "GPU", "MEM", "NOW"),
            right=("SLOTS", "CPU", "GPU", "MEM"),
            fold=("NODE", "NOW"),
        )
        for node in said.candidates:
            made.add_row(
                *(node.node_id, f"{node.taken}/{node.slots}"),
                *(percent(node.load.get(part)) for part in ("cpu", "gpu", "mem")),
                node.obstacle or "could have it",
            )
        out.print()
        out.print(made)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens; Ctrl-C ends it.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The last so many."
)
@json_option
def events(follow: bool, limit: int, as_json: bool) -> None:
    """What happened to nodes, pools and jobs, oldest first.

    Times are local. The fleet remembers some ten thousand events. With --follow, --json writes
    one object a line.
    """
    views = plugin().views
    if as_json and not follow:
        return print_json(views.events(limit=limit))
    with suppress(KeyboardInterrupt):
        for event in _go_on(views, limit) if follow else views.events(limit=limit):
            if as_json:
                print_json(event, on_one_line=True)
            else:
                say(_event_line(event))
    return None


def _go_on(views: Views, limit: int) -> Iterator[Event]:
    """The last events, then each as it happens, also in a stream that begins anew."""
    last, found = "0-0", views.events(limit=limit)
    while True:
        for event in found:
            yield event
            last = event.event_id
        found = views.events(after=last, block_ms=LOOK)
        if (
            not found
            and (latest := views.events(limit=1))
            and place_of(latest[0].event_id) < place_of(last)
        ):
            found = views.events(after="0-0")


def _event_line(event: Event) -> str:
    when = clock(event.ts)
    about = " ".join(f"{name}={value}" for name, value in event.fields.items())
    return f"{when}  {event.kind:<14} {about}"
