"""The folder of a run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path


def log_directory(name: str) -> Path:
    """A new folder, with the log of this process."""
    directory = Path(tempfile.mkdtemp(prefix=f"minsched-{name}-"))
    logging.basicConfig(
        filename=directory / f"{name}.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )
    return directory
