"""Keys that stay for ever although what they belong to is gone: of sessions, tasks and pools.

The opposite too: the key of a task that is deleted while the task's job waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from redis.exceptions import ResponseError

from ..core.reading import pages
from ..core.scripts import text
from .breach import Breach
from .jobs import PARKED, Record
from .look import Command, Key, Look

#: Keys that always have a TTL, each with a command for its type in Redis.
_COMMANDS: Final = {"session": "HEXISTS", "pool_turns": "ZSCORE", "node_searches": "HEXISTS"}
WITH_TTL: Final = (*_COMMANDS, "task")

#: A job with one of these keeps its task's key without a TTL.
IN_LINE = ("waiting", "delayed")


class LastingKeys:
    """Keys with a TTL, read once. The keys that do not fit are read again in one step."""

    def __init__(self, look: Look) -> None:
        self._look = look
        #: Keys that should have a TTL.
        self._lasting: list[Key] = []
        #: Tasks' keys without a TTL for which no job in line was met.
        self._unexplained: set[str] = set()
        #: Tasks' keys of jobs in line that were not met without a TTL, with the jobs' ids.
        self._unmet: dict[str, str] = {}

    def read(self, keys: Iterable[Key]) -> None:
        """Read which of these keys have a TTL."""
        for key, [ttl] in self._look.glance((key, [(b"PTTL", key.key)]) for key in keys):
            if ttl != -1:
                continue
            if key.name != "task":
                self._lasting.append(key)
            elif self._unmet.pop(key.key, None) is None:
                self._unexplained.add(key.key)

    def expect_task(self, task_id: str, job_id: str) -> None:
        """The job is in line, so the key of its task has no TTL."""
        key = self._look.keys("task", task_id)
        if key in self._unexplained:
            self._unexplained.discard(key)
        else:
            self._unmet[key] = job_id

    def check(self, look: Look) -> Iterator[Breach]:
        """Read again what does not fit."""
        lasting = {key.key: key.name for key in self._lasting}
        questions = ((key, (_COMMANDS[name], key, "")) for key, name in sorted(lasting.items()))
        for key, ttl, _ in _read_own(look, questions):
            if ttl == -1:
                yield Breach(
                    code="key_stays",
                    sentence=f"{key} has no TTL, so it stays for ever",
                    keys=(key,),
                    subject=("ttl", key, str(round(look.ttl_of[lasting[key]] * 1000))),
                )
        tasks = _read_own(look, ((key, ("GET", key)) for key in sorted(self._unexplained)))
        jobs = [(key, job_id) for key, _, job_id in tasks if job_id]
        yield from _check_tasks(look, [*jobs, *sorted(self._unmet.items())])


def _read_own(
    look: Look, questions: Iterable[tuple[str, Command]]
) -> Iterator[tuple[str, int, Any]]:
    """Each key with its TTL and the answer to its question. A key of another type than ours is a
    program's own, and left out.
    """
    for page in pages(questions):
        with look.redis.pipeline(transaction=False) as pipe:
            for key, question in page:
                pipe.pttl(key)
                pipe.execute_command(*question)
            answers = text(pipe.execute(raise_on_error=False))
        for (key, _), ttl, answer in zip(page, answers[::2], answers[1::2], strict=True):
            if not isinstance(answer, ResponseError):
                yield key, ttl, answer


def _check_tasks(look: Look, tasks: Iterable[tuple[str, str]]) -> Iterator[Breach]:
    """Tasks' keys, each with the job that it names, or that should be named."""
    for (key, job_id), (named, ttl, values) in look.read(
        (task, [("GET", task[0]), ("PTTL", task[0]), Record.command(look, task[1])])
        for task in tasks
    ):
        record = Record.of(values)
        what = f"task {_id_of(look, key)}: its job {job_id} {record.state}, and its key "
        if named == job_id and ttl == -1 and record.status not in PARKED:
            yield _task_breach(look, "task_stays", what + "never lapses", key, job_id)
        elif record.status in IN_LINE and (named is None or (named == job_id and ttl != -1)):
            fault = "is gone" if named is None else "may lapse first"
            yield _task_breach(look, "task_lapses", what + fault, key, job_id)


def _task_breach(look: Look, code: str, sentence: str, key: str, job_id: str) -> Breach:
    return Breach(
        code=code,
        sentence=sentence,
        keys=(key, look.keys("job", job_id)),
        subject=("job", job_id, "", "", "", _id_of(look, key)),
    )


def _id_of(look: Look, key: str) -> str:
    parsed = look.keys.parse(key)
    return parsed[1][0] if parsed else key


def check_pools(look: Look) -> Iterator[Breach]:
    """What is kept of pools that have no node: counters, and that an operator has paused them."""
    keys = look.keys
    counted = {key.ids[0] for key in look.met.get("pool_counts", {}).values()}
    for pool, (has_nodes, ttl, is_paused) in look.read(
        (
            pool,
            [
                ("SISMEMBER", keys("pools"), pool),
                ("PTTL", keys("pool_counts", pool)),
                ("SISMEMBER", keys("paused"), pool),
            ],
        )
        for pool in sorted(counted | look.paused)
    ):
        if has_nodes:
            continue
        if ttl == -1:
            yield Breach(
                code="counts_stay",
                sentence=f"pool {pool} has no node, and its counters never lapse",
                keys=(keys("pool_counts", pool), keys("pools")),
                subject=("node", "", f"{pool}\t\n"),
            )
        if is_paused:
            yield Breach(
                code="pause_stays",
                sentence=f"pool {pool} is gone, and would be paused if it returned",
                keys=(keys("paused"),),
                subject=("member", keys("paused"), pool),
            )
