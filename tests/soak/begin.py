"""The start of a run: its seed, its folder and its console."""

from __future__ import annotations

import logging
import random
import tempfile
from pathlib import Path

from rich.console import Console


def begin(name: str, seed: int | None, width: int | None = None) -> tuple[int, Path, Console]:
    """The seed, a new folder with the log of this process, and the console, which shows both."""
    seed = random.randrange(10**6) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix=f"minsched-{name}-"))
    logging.basicConfig(
        filename=directory / f"{name}.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )
    console = Console(highlight=False, width=width)
    console.print(f"seed {seed}, logs in {directory}")
    return seed, directory, console
