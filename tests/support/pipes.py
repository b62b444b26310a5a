"""The pipes of a process."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def writable_pipes(pid: int) -> dict[int, int]:
    """The file descriptors to which the process can write, by inode."""
    pipes = {}
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/{pid}/fd/{entry.name}")
            flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
            if stat.S_ISFIFO(status.st_mode) and flags & os.O_ACCMODE == os.O_WRONLY:
                pipes[status.st_ino] = int(entry.name)
    return pipes
