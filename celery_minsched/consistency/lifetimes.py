"""Rules about keys that should have a TTL: those of sessions, tasks, searches and fair turns.

A task's key must not have a TTL while the task's job waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis.exceptions import ResponseError

from ..core.reading import pages
from ..core.statuses import UNASSIGNED
from ..core.stored import Command
from ..core.texts import text
from .records import JobRecord, Key
from .state_scan import StateScan
from .violation import Violation

#: The kinds of keys that always have a TTL, each with a command that fails on another type.
_COMMANDS: Final = {
    "session": "HEXISTS",
    "pool_turns": "ZSCORE",
    "lang_turns": "ZSCORE",
    "node_searches": "HEXISTS",
}
WITH_TTL: Final = (*_COMMANDS, "task")

#: While a job has one of these statuses, its task's key has no TTL.
IN_LINE = ("waiting", "delayed")


class Lifetimes:
    """Reads the keys once. It reads those that are wrong again in one step."""

    def __init__(self, scan: StateScan) -> None:
        self._scan = scan
        #: Keys that should have a TTL and have none.
        self._without_ttl: list[Key] = []
        #: Tasks' keys without a TTL for which no job in line was found yet.
        self._unexplained: set[str] = set()
        #: Tasks' keys that should have no TTL and were not found without one yet, with the ids of
        #: their jobs.
        self._missing: dict[str, str] = {}

    def read(self, keys: Iterable[Key]) -> None:
        """Read which of these keys have a TTL."""
        for key, [ttl] in self._scan.read_loosely((key, [(b"PTTL", key.key)]) for key in keys):
            if ttl != -1:
                continue
            if key.name != "task":
                self._without_ttl.append(key)
            elif self._missing.pop(key.key, None) is None:
                self._unexplained.add(key.key)

    def expect_task(self, task_id: str, job_id: str) -> None:
        """Expect that the task's key has no TTL, because its job is in line."""
        key = self._scan.keys("task", task_id)
        if key in self._unexplained:
            self._unexplained.discard(key)
        else:
            self._missing[key] = job_id

    def check(self, scan: StateScan) -> Iterator[Violation]:
        """Read the suspects again, and yield the violations."""
        names = {key.key: key.name for key in self._without_ttl}
        questions = ((key, (_COMMANDS[name], key, "")) for key, name in sorted(names.items()))
        for key, ttl, _ in _read_own(scan, questions):
            if ttl == -1:
                yield Violation(
                    code="key_stays",
                    sentence=f"{key} has no TTL, so Redis never deletes it",
                    keys=(key,),
                    subject=("ttl", key, str(round(scan.ttl_of[names[key]] * 1000))),
                )
        tasks = _read_own(scan, ((key, ("GET", key)) for key in sorted(self._unexplained)))
        jobs = [(key, job_id) for key, _, job_id in tasks if job_id]
        yield from _check_tasks(scan, [*jobs, *sorted(self._missing.items())])


def _read_own(
    scan: StateScan, questions: Iterable[tuple[str, Command]]
) -> Iterator[tuple[str, int, Any]]:
    """Each key with its TTL and the answer to its question. A key of another type belongs to
    another program and is left out.
    """
    for page in pages(questions):
        with scan.redis.pipeline(transaction=False) as pipe:
            for key, question in page:
                pipe.pttl(key)
                pipe.execute_command(*question)
            answers = text(pipe.execute(raise_on_error=False))
        for (key, _), ttl, answer in zip(page, answers[::2], answers[1::2], strict=True):
            if not isinstance(answer, ResponseError):
                yield key, ttl, answer


def _check_tasks(scan: StateScan, tasks: Iterable[tuple[str, str]]) -> Iterator[Violation]:
    """Check tasks' keys, each with the job that it names or should name."""
    for (key, job_id), (named, ttl, values) in scan.read(
        (task, [("GET", task[0]), ("PTTL", task[0]), JobRecord.command(scan.keys, task[1])])
        for task in tasks
    ):
        record = JobRecord.of(values)
        subject = f"task {_id_of(scan, key)}: its job {job_id} {record.state} but its key "
        if named == job_id and ttl == -1 and record.status not in UNASSIGNED:
            fault = "has no TTL, so Redis never deletes it"
            yield _task_violation(scan, "task_stays", subject + fault, key, job_id)
        elif record.status in IN_LINE and (named is None or (named == job_id and ttl != -1)):
            fault = "is gone" if named is None else "has a TTL, so Redis may delete it too early"
            yield _task_violation(scan, "task_lapses", subject + fault, key, job_id)


def _task_violation(scan: StateScan, code: str, sentence: str, key: str, job_id: str) -> Violation:
    return Violation(
        code=code,
        sentence=sentence,
        keys=(key, scan.keys("job", job_id)),
        subject=("job", job_id, "", "", "", _id_of(scan, key)),
    )


def _id_of(scan: StateScan, key: str) -> str:
    parsed = scan.keys.parse(key)
    return parsed[1][0] if parsed else key
