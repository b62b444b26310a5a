"""The file with all old jobs, in JSON Lines: one object a job. It is only appended to."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class HistoryError(Exception):
    """Another process writes the file, or the file is not JSON Lines of jobs."""


class History:
    """A file of jobs. Skips jobs that the file has already, and replaces an incomplete last line.

    Raises :class:`HistoryError`, or ``OSError`` if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b")  # noqa: SIM115 - closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise HistoryError(f"another process writes {path}") from None
        self._written = self._read()

    def _read(self) -> set[str]:
        """The ids of the jobs in the file."""
        self._file.seek(0)
        written, end = set(), 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                written.add(json.loads(line)["job_id"])
            except (ValueError, KeyError, TypeError) as exc:
                self._file.close()
                raise HistoryError(f"line {number} is not a job: {line[:60]!r}") from exc
            end += len(line)
        self._file.truncate(end)
        return written

    def write(self, jobs: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """Append the ids and records of new jobs, and return their number.

        The jobs are on disk when this function returns.
        """
        new = [(job_id, record) for job_id, record in jobs if job_id not in self._written]
        for job_id, record in new:
            line: dict[str, Any] = {"job_id": job_id, **record}
            self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._written.update(job_id for job_id, _ in new)
        return len(new)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()
