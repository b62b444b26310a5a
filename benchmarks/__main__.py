"""``make bench``: measures each goal of the project, and prints a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import click

from benchmarks.common import print_machine, print_table, say
from benchmarks.row import COLUMNS, Row
from benchmarks.summary import SECTIONS, SHORT, Extent


@click.command()
@click.option("--short", is_flag=True, help="Run everything with small sizes. Takes a minute.")
@click.option("--only", multiple=True, type=click.Choice([*SECTIONS]), help="Default: all.")
@click.option("--replay-seconds", type=float, help="Length of a replay of the trace.")
@click.option("--rounds", type=int, help="Rounds of each contender.")
def main(
    short: bool, only: Sequence[str], replay_seconds: float | None, rounds: int | None
) -> None:
    """Measure each goal, and print which goals are met. The contenders take turns."""
    say(f"{datetime.now(tz=UTC):%Y-%m-%d}")
    print_machine()
    extent = SHORT if short else Extent()
    extent = replace(
        extent,
        replay_seconds=replay_seconds or extent.replay_seconds,
        rounds=rounds or extent.rounds,
        worker_rounds=rounds or extent.worker_rounds,
    )
    rows: list[Row] = []
    failures = []
    for name in only or SECTIONS:
        began = time.monotonic()
        try:
            rows += SECTIONS[name](extent)
        except click.ClickException as error:
            failures.append(f"{name}: {error.message}")
        click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    print_table(
        "Goals: ratios of two contenders in the same round, median (middle half of the rounds)",
        COLUMNS,
        [row.cells() for row in rows],
    )
    say(f"{sum(row.is_met for row in rows)} of {len(rows)} goals are met.")
    if failures:
        raise click.ClickException("\n".join(failures))


if __name__ == "__main__":
    main()
