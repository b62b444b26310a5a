"""``celery minsched check``."""

from __future__ import annotations

import click
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from ..consistency.breach import Breach
from ..consistency.checker import Checker
from ..consistency.repair import repair
from .command import Command, ExitCode
from .common import console, json_option, plugin, print_json
from .waiting import progress


class Answer(BaseModel):
    """What ``--json`` tells."""

    sound: bool
    found: list[Breach]
    left: list[Breach]


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "The state is consistent, or is so after the repair.",
        ExitCode.NOT_DONE: "A violation is left.",
    },
)
@click.option("--repair", "mend", is_flag=True, help="Mend what is found.")
@json_option
@click.pass_context
def check(context: click.Context, mend: bool, as_json: bool) -> None:
    """Does what is in Redis fit together? Names each breach with its keys.

    Reads only, in small pieces, and may run at any time. With --repair each is mended in one step,
    by what is true at that moment; what cannot be mended is named, with what to do.
    """
    scheduler = plugin()
    with progress() as bar:
        checker = Checker(scheduler.views, bar.update)
        found = checker.check()
        left = repair(scheduler.scheduler, checker, found) if mend else found
    if as_json:
        print_json(Answer(sound=not left, found=found, left=left))
    else:
        _print(console(), found, left, mend)
    context.exit(ExitCode.NOT_DONE if left else ExitCode.DONE)


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
