"""``celery minsched migrate``."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import BaseModel

from ..core.layout import LAYOUT, check_layout
from ..core.printing import duration, printable
from ..core.scheduler import MinimalSchedulerService
from ..migration.from_v1.carry import HELD, carry_over, heartbeats
from ..migration.from_v1.history import History, HistoryError
from ..migration.from_v1.survey import Survey, survey
from ..monitor.queries import Views
from .command import Command, ExitCode, Failure
from .options import json_option, plugin
from .output import console, plural, print_json
from .waiting import progress

#: A node of the old version whose last heartbeat is not older than this is alive.
_ALIVE_SECONDS = 60.0

#: The command prints at most this many unknown keys.
_MAX_KEYS = 20


class Migration(BaseModel):
    """The result of ``migrate``."""

    #: The layout in Redis, or None if Redis is empty.
    found: int | None
    layout: int
    applied: bool
    nodes: int = 0
    pools: int = 0
    language_pairs: int = 0
    sessions: int = 0
    jobs: int = 0
    #: None in a dry run.
    held: int | None = None
    #: None in a dry run.
    written: int | None = None
    #: Nodes of the old version that are alive.
    heard: list[str] = []
    unknown: list[str] = []
    in_the_way: list[str] = []


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "Redis has the layout of this version, or is empty.",
        ExitCode.NOT_DONE: "Redis has another layout. The command has changed nothing.",
    },
)
@click.option("--apply", is_flag=True, help="Migrate. Without this option nothing changes.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the jobs to this file, as JSON Lines.",
)
@json_option
@click.pass_context
def migrate(context: click.Context, apply: bool, history: Path | None, as_json: bool) -> None:
    """Convert a Redis of the original specification to the layout of this version.

    The command keeps nodes, pools, language pairs and sessions. It counts the taken slots of a node
    from the jobs that the node holds. It writes all jobs to the history file. Redis deletes ended
    jobs after minsched_history_ttl. The command lists unknown keys and does not change them. If it
    is interrupted, run it again.
    """
    service = plugin().unchecked_scheduler()
    old = survey(service)
    if old.layout is not None and old.layout > LAYOUT:
        check_layout(service.redis, service.keys)
    result = Migration(
        found=old.layout,
        layout=LAYOUT,
        applied=apply,
        nodes=len(old.nodes),
        pools=len(old.pools),
        language_pairs=len(old.pairs),
        sessions=old.sessions,
        jobs=old.jobs,
        heard=_live_nodes(service, old),
        unknown=old.unknown,
        in_the_way=old.in_the_way,
    )
    is_done = old.layout == LAYOUT or old.is_empty
    if apply and not is_done:
        result = _apply(service, old, history, result)
    if as_json:
        print_json(result)
    else:
        _print(result, history, old.is_empty)
    context.exit(ExitCode.DONE if is_done or apply else ExitCode.NOT_DONE)


def _live_nodes(service: MinimalSchedulerService, old: Survey) -> list[str]:
    """Nodes of the old version that still send heartbeats."""
    oldest = Views(service.redis, service.keys).now() - 1000 * _ALIVE_SECONDS
    times = heartbeats(service, old)
    return sorted(node_id for node_id, heartbeat in times.items() if heartbeat > oldest)


def _apply(
    service: MinimalSchedulerService,
    old: Survey,
    history: Path | None,
    result: Migration,
) -> Migration:
    if old.in_the_way:
        keys = printable(", ".join(old.in_the_way[:_MAX_KEYS]))
        raise Failure(
            f"nothing was changed, because keys are in the way: {keys}. They do not belong to the "
            "original specification, but this version uses their names. Rename them, or set "
            "another minsched_key_prefix for this version."
        )
    if history is None:
        raise click.UsageError("--apply needs --history FILE, because jobs are written there first")
    try:
        with History(history) as file, progress("jobs", old.jobs) as bar:
            counts = carry_over(service, old, file, bar.advance)
    except (HistoryError, OSError) as exc:
        raise Failure(f"{history} cannot take the jobs: {exc}. Mend that, and run again.") from exc
    return result.model_copy(update={"held": counts["held"], "written": counts["written"]})


def _print(result: Migration, history: Path | None, is_empty: bool) -> None:
    out = console()
    if result.found == LAYOUT:
        return out.print(f"Redis has layout {LAYOUT}, the layout of this version.", style="green")
    if is_empty:
        return out.print("Redis has no data of the scheduler.", style="green")
    out.print(
        f"Redis has the layout of the original specification. This version has layout {LAYOUT}."
    )
    out.print(
        f"{plural(result.nodes, 'node')}, {plural(result.pools, 'pool')}, "
        f"{plural(result.language_pairs, 'language pair')}, {plural(result.sessions, 'session')}, "
        f"{plural(result.jobs, 'job')}."
    )
    if result.unknown:
        out.print(f"{plural(len(result.unknown), 'unknown key')} will not change:")
        for key in result.unknown[:_MAX_KEYS]:
            out.print(f"    {printable(key)}")
        if len(result.unknown) > _MAX_KEYS:
            out.print(f"    … and {len(result.unknown) - _MAX_KEYS} more")
    if result.heard:
        out.print(
            f"These nodes of the old version are alive: {', '.join(result.heard)}. Stop them and "
            "the applications of the old version. They cannot use the new layout.",
            style="yellow",
        )
    if not result.applied:
        return out.print("Nothing was changed. To migrate, add --apply --history FILE.")
    return out.print(
        f"Done. Wrote {plural(result.written or 0, 'job')} to {history}. "
        f"Jobs that have not ended: {result.held or 0}. Each holds its slot until it ends, for at "
        f"most {duration(1000 * HELD)}. Start the nodes."
    )
