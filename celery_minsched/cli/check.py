"""``celery minsched check``."""

from __future__ import annotations

import click
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from ..consistency.checker import Checker
from ..consistency.repair import repair
from ..consistency.violation import Violation
from .command import Command, ExitCode
from .options import json_option, plugin
from .output import console, print_json
from .waiting import progress


class Answer(BaseModel):
    """The output of ``--json``."""

    sound: bool
    found: list[Violation]
    left: list[Violation]


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
    """Does what is in Redis fit together? Names each violation with its keys.

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


def _print(out: Console, found: list[Violation], left: list[Violation], mend: bool) -> None:
    if not found:
        out.print("All is sound.", style="green")
        return
    remains = {(violation.code, violation.keys): violation for violation in left}
    for violation in found:
        still = remains.pop((violation.code, violation.keys), None)
        _print_violation(out, still or violation, "" if not mend else "left" if still else "mended")
    for violation in remains.values():  # came to light by the repair
        _print_violation(out, violation, "left")
    if mend:
        out.print(f"{len(found)} found, {len(left)} left.")
    else:
        out.print(f"{len(found)} found. Mend them with --repair.")


def _print_violation(out: Console, violation: Violation, state: str) -> None:
    colour = {"mended": "green", "left": "red"}.get(state, "yellow")
    out.print(Text.assemble((state or "breach", colour), f": {violation.sentence}"))
    out.print(Text(f"    {violation.code}: {', '.join(violation.keys)}", style="dim"))
    if violation.remedy:
        out.print(Text(f"    {violation.remedy}"))
