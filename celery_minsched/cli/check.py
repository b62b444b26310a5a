"""``celery minsched check``."""

from __future__ import annotations

import click
from rich.console import Console
from rich.text import Text

from ..check import Breach, Checker, repair
from .group import as_json, console_of, plugin_of, print_json, printable


@click.command()
@click.option("--repair", "mend", is_flag=True, help="Mend what is found.")
@as_json
@click.pass_context
def check(context: click.Context, mend: bool, as_json: bool) -> None:
    """Does what is in Redis fit together? Names each breach with its keys.

    Reads only, in small pieces, and may run at any time. With --repair each is mended in one step,
    by what is true at that moment; what cannot be mended is named, with what to do. Exits with 0
    where all is sound at the end, and with 1 where it is not.
    """
    plugin = plugin_of(context)
    checker = Checker(plugin.views)
    found = checker.check()
    left = repair(plugin.scheduler, checker, found) if mend else found
    if as_json:
        print_json(
            {
                "sound": not left,
                "found": [breach.model_dump() for breach in found],
                "left": [breach.model_dump() for breach in left],
            }
        )
    else:
        _print(console_of(context), found, left, mend)
    context.exit(1 if left else 0)


def _print(console: Console, found: list[Breach], left: list[Breach], mend: bool) -> None:
    if not found:
        console.print("All is sound.", style="green")
        return
    remains = {(breach.code, breach.keys): breach for breach in left}
    for breach in found:
        still = remains.pop((breach.code, breach.keys), None)
        _print_breach(console, still or breach, "" if not mend else "left" if still else "mended")
    for breach in remains.values():  # came to light by the repair
        _print_breach(console, breach, "left")
    if mend:
        console.print(f"{len(found)} found, {len(left)} left.")
    else:
        console.print(f"{len(found)} found. Mend them with --repair.")


def _print_breach(console: Console, breach: Breach, state: str) -> None:
    colour = {"mended": "green", "left": "red"}.get(state, "yellow")
    sentence, keys = printable(breach.sentence), printable(", ".join(breach.keys))
    console.print(Text.assemble((state or "breach", colour), f": {sentence}"))
    console.print(Text(f"    {breach.code}: {keys}", style="dim"))
    if breach.remedy:
        console.print(Text(f"    {breach.remedy}"))
