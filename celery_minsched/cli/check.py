"""``celery minsched check``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from ..consistency.breach import Breach
from ..consistency.checker import Checker
from ..consistency.look import Tell
from ..consistency.repair import repair
from .common import console, json_option, plugin, print_json


class Answer(BaseModel):
    """What ``--json`` tells."""

    sound: bool
    found: list[Breach]
    left: list[Breach]


@click.command()
@click.option("--repair", "mend", is_flag=True, help="Mend what is found.")
@json_option
@click.pass_context
def check(context: click.Context, mend: bool, as_json: bool) -> None:
    """Does what is in Redis fit together? Names each breach with its keys.

    Reads only, in small pieces, and may run at any time. With --repair each is mended in one step,
    by what is true at that moment; what cannot be mended is named, with what to do. Exits with 0
    where all is sound at the end, and with 1 where it is not.
    """
    scheduler = plugin()
    with _bar(hidden=as_json) as tell:
        checker = Checker(scheduler.views, tell)
        found = checker.check()
        left = repair(scheduler.scheduler, checker, found) if mend else found
    if as_json:
        print_json(Answer(sound=not left, found=found, left=left))
    else:
        _print(console(), found, left, mend)
    context.exit(1 if left else 0)


@contextmanager
def _bar(hidden: bool) -> Iterator[Tell]:
    """A bar on a terminal while the check runs; nothing is left of it."""
    if hidden or not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda step, done, total: None
        return
    no_color = bool(click.get_current_context().obj.no_color)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, console=Console(stderr=True, no_color=no_color), transient=True
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda step, done, total: progress.update(
            task, description=step, completed=done, total=total
        )


def _print(out: Console, found: list[Breach], left: list[Breach], mend: bool) -> None:
    if not found:
        out.print("All is sound.", style="green")
        return
    remains = {(breach.code, breach.keys): breach for breach in left}
    for breach in found:
        still = remains.pop((breach.code, breach.keys), None)
        _print_breach(out, still or breach, "" if not mend else "left" if still else "mended")
    for breach in remains.values():  # came to light by the repair
        _print_breach(out, breach, "left")
    if mend:
        out.print(f"{len(found)} found, {len(left)} left.")
    else:
        out.print(f"{len(found)} found. Mend them with --repair.")


def _print_breach(out: Console, breach: Breach, state: str) -> None:
    colour = {"mended": "green", "left": "red"}.get(state, "yellow")
    out.print(Text.assemble((state or "breach", colour), f": {breach.sentence}"))
    out.print(Text(f"    {breach.code}: {', '.join(breach.keys)}", style="dim"))
    if breach.remedy:
        out.print(Text(f"    {breach.remedy}"))
