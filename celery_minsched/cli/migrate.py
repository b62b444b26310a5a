"""``celery minsched migrate``."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import BaseModel

from ..core.layout import LAYOUT, check_layout
from ..core.scheduler import MinimalSchedulerService
from ..migration import from_v1 as migration
from ..monitor.queries import Views
from .command import Command, ExitCode, Failure
from .common import console, duration, json_option, plugin, plural, print_json, printable
from .waiting import progress

_HEARD = 60.0  # seconds
_MOST = 20  # unknown keys that are printed


class Answer(BaseModel):
    """What ``--json`` tells."""

    #: Layout that was found; None where there was nothing.
    found: int | None
    layout: int
    applied: bool
    nodes: int = 0
    pools: int = 0
    language_pairs: int = 0
    sessions: int = 0
    jobs: int = 0
    #: None of these two in a dry run.
    held: int | None = None
    written: int | None = None
    #: Nodes of the earlier version that seem to live.
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
@click.option("--apply", is_flag=True, help="Do it. Without, nothing is changed.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to which the jobs are appended, as JSON Lines.",
)
@json_option
@click.pass_context
def migrate(context: click.Context, apply: bool, history: Path | None, as_json: bool) -> None:
    """Bring a Redis of the original specification into this version's layout.

    Nodes, pools, language pairs and sessions are carried over; slots are counted anew from the jobs
    that nodes hold; all jobs are written to the file, and those that ended lapse. Keys that are not
    known are listed, and left as they are. Broken off anywhere, it can be run again.
    """
    scheduler = plugin()
    service = scheduler.unchecked_scheduler()
    found = migration.survey(service)
    if found.layout is not None and found.layout > LAYOUT:
        check_layout(service.redis, service.keys)
    answer = Answer(
        found=found.layout,
        layout=LAYOUT,
        applied=apply,
        nodes=len(found.nodes),
        pools=len(found.pools),
        language_pairs=len(found.pairs),
        sessions=found.sessions,
        jobs=found.jobs,
        heard=_heard(service, found),
        unknown=found.unknown,
        in_the_way=found.in_the_way,
    )
    is_done = found.layout == LAYOUT or found.is_empty
    if apply and not is_done:
        answer = _apply(service, found, history, answer)
    if as_json:
        print_json(answer)
    else:
        _print(answer, history, found.is_empty)
    context.exit(ExitCode.DONE if is_done or apply else ExitCode.NOT_DONE)


def _heard(service: MinimalSchedulerService, found: migration.Survey) -> list[str]:
    """Nodes that go on to tell of themselves in the earlier layout."""
    views = Views(service.redis, service.keys)
    after = views.now() - 1000 * _HEARD
    times = migration.heartbeats(service, found)
    return sorted(node_id for node_id, heard in times.items() if heard > after)


def _apply(
    service: MinimalSchedulerService,
    found: migration.Survey,
    history: Path | None,
    answer: Answer,
) -> Answer:
    if found.in_the_way:
        raise Failure(
            "nothing was changed: this version would take these keys for its own, and they are not "
            f"the specification's: {printable(', '.join(found.in_the_way[:_MOST]))}. Rename them, "
            "or give this version a minsched_key_prefix of its own."
        )
    if history is None:
        raise click.UsageError("--apply needs --history FILE: the jobs are written there first")
    try:
        with migration.History(history) as file, progress("jobs", found.jobs) as bar:
            done = migration.carry_over(service, found, file, bar.advance)
    except (migration.HistoryError, OSError) as exc:
        raise Failure(f"{history} cannot take the jobs: {exc}. Run it again then.") from exc
    return answer.model_copy(update={"held": done["held"], "written": done["written"]})


def _print(answer: Answer, history: Path | None, is_empty: bool) -> None:
    out = console()
    if answer.found == LAYOUT:
        return out.print(f"Redis has layout {LAYOUT}, which is this version's.", style="green")
    if is_empty:
        return out.print("Redis has nothing of the scheduler.", style="green")
    out.print(
        f"Redis has the layout of the original specification; this version has layout {LAYOUT}."
    )
    out.print(
        f"{plural(answer.nodes, 'node')}, {plural(answer.pools, 'pool')}, "
        f"{plural(answer.language_pairs, 'language pair')}, {plural(answer.sessions, 'session')}, "
        f"{plural(answer.jobs, 'job')}."
    )
    if answer.unknown:
        out.print(f"{plural(len(answer.unknown), 'key')} left as they are, being unknown:")
        for key in answer.unknown[:_MOST]:
            out.print(f"    {printable(key)}")
        if len(answer.unknown) > _MOST:
            out.print(f"    … and {len(answer.unknown) - _MOST} more")
    if answer.heard:
        out.print(
            f"These nodes were heard a moment ago: {', '.join(answer.heard)}. Stop them, and the "
            "applications of the earlier version: it does not know this layout.",
            style="yellow",
        )
    if not answer.applied:
        return out.print("Nothing was changed. Do it with --apply --history FILE.")
    return out.print(
        f"Done. {plural(answer.written or 0, 'job')} written to {history}; "
        f"{plural(answer.held or 0, 'job')} in flight, whose slots are held till they end, for "
        f"{duration(1000 * migration.HELD)} at most. Start the nodes."
    )
