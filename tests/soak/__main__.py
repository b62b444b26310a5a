"""``python -m tests.soak``: see the package."""

from __future__ import annotations

import os
import shutil
import sys

import click

from ..support.server import Server
from .begin import begin

NODE_TTL = 2.0  # seconds


@click.command()
@click.option("--short", "form", flag_value="short", help="Run for one minute instead of five.")
@click.option("--quick", "form", flag_value="quick", help="Run for half a minute.")
@click.option("--seed", type=int, help="Seed of the random jobs and faults.  [default: random]")
@click.option("--plain", is_flag=True, help="Run plain Celery instead of celery_minsched.")
@click.option("--visibility-timeout", type=float, default=3600.0, show_default=True,
              help="Visibility timeout of plain Celery, in seconds.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the logs and the ledger of a successful run, too.")
def main(
    form: str | None, seed: int | None, plain: bool, visibility_timeout: float, keep: bool
) -> None:
    """Send jobs to nodes while random faults happen, and check each job.

    The exit code is 1 if a promise was broken. With --plain it is always 0.
    """
    seed, directory, console = begin("soak", seed)
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        os.environ.update(
            SOAK_BROKER=server.url,
            SOAK_LEDGER=str(directory / "ledger"),
            SOAK_NODE_TTL=str(NODE_TTL),
            SOAK_VISIBILITY_TIMEOUT=str(visibility_timeout),
            SOAK_PLAIN="1" if plain else "",
        )
        from .run import FORMS, soak  # reads the environment when it is imported

        is_sound = soak(console, FORMS[form or "full"], seed, server, directory)
    finally:
        server.close()
    if (is_sound or plain) and not keep:
        shutil.rmtree(directory)
    sys.exit(0 if is_sound or plain else 1)


if __name__ == "__main__":
    main()
