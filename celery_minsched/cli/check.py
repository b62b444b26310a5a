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


class CheckResult(BaseModel):
    """The output of ``--json``."""

    sound: bool
    found: list[Violation]
    left: list[Violation]


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.DONE: "There is no violation, or the repair has mended all.",
        ExitCode.NOT_DONE: "Violations are left.",
    },
)
@click.option("--repair", "with_repair", is_flag=True, help="Mend the violations.")
@json_option
@click.pass_context
def check(context: click.Context, with_repair: bool, as_json: bool) -> None:
    """Check that the Redis data is consistent, and print each violation with its keys.

    The check only reads, a few keys at a time, and can run while jobs run. --repair mends each
    violation in one step, based on the state of that moment. If --repair cannot mend a violation,
    the output contains the remedy.
    """
    scheduler = plugin()
    with progress() as bar:
        checker = Checker(scheduler.views, bar.update)
        violations = checker.check()
        remaining = repair(scheduler.scheduler, checker, violations) if with_repair else violations
    if as_json:
        print_json(CheckResult(sound=not remaining, found=violations, left=remaining))
    else:
        _print(console(), violations, remaining, with_repair)
    context.exit(ExitCode.NOT_DONE if remaining else ExitCode.DONE)


def _print(
    out: Console, violations: list[Violation], remaining: list[Violation], with_repair: bool
) -> None:
    if not violations:
        out.print("No violation found.", style="green")
        return
    if not with_repair:
        for violation in violations:
            _print_violation(out, violation, "violation", "yellow")
        out.print(f"{len(violations)} found. Mend them with --repair.")
        return
    mended = {(violation.code, violation.keys): violation for violation in violations}
    for violation in remaining:
        mended.pop((violation.code, violation.keys), None)
    for violation in mended.values():
        _print_violation(out, violation, "mended", "green")
    for violation in remaining:
        _print_violation(out, violation, "left", "red")
    out.print(f"{len(violations)} found, {len(remaining)} left.")


def _print_violation(out: Console, violation: Violation, word: str, colour: str) -> None:
    out.print(Text.assemble((word, colour), f": {violation.sentence}"))
    out.print(Text(f"    {violation.code}: {', '.join(violation.keys)}", style="dim"))
    if violation.remedy:
        out.print(Text(f"    {violation.remedy}"))
