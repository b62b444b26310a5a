"""``python -m tests.chaos``: see the package."""

from __future__ import annotations

import os
import shutil
import sys

import click

from ..soak.begin import begin
from ..support.server import Server

NODE_TTL = 3.0  # seconds


@click.command()
@click.option(
    "--short", "form", flag_value="short", help="Run for a minute and a half instead of eight."
)
@click.option("--seed", type=int, help="Seed of the random jobs and faults.  [default: random]")
@click.option("--keep", is_flag=True, help="Keep the logs and the ledger of a successful run, too.")
def main(form: str | None, seed: int | None, keep: bool) -> None:
    """Send jobs to nodes while nodes, the network and Redis fail, and check each job.

    The exit code is 1 if a promise was broken.
    """
    seed, directory, console = begin("chaos", seed, 130)
    folders = {"CHAOS_CHILDREN": directory / "children", "CHAOS_REQUEUED": directory / "requeued"}
    for folder in folders.values():
        folder.mkdir()
    server = Server("--appendonly", "yes", "--appendfsync", "always")
    try:
        os.environ.update(
            SOAK_BROKER=server.url,
            SOAK_LEDGER=str(directory / "ledger"),
            SOAK_NODE_TTL=str(NODE_TTL),
            **{name: str(folder) for name, folder in folders.items()},
        )
        from .run import FORMS, chaos  # reads the environment when it is imported

        is_sound = chaos(console, FORMS[form or "full"], seed, server, directory)
    finally:
        server.close()
    if is_sound and not keep:
        shutil.rmtree(directory)
    sys.exit(0 if is_sound else 1)


if __name__ == "__main__":
    main()
