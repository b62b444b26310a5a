"""A job and the places where it may be: its record says which (invariant 2).

Reads in one step what is compared, of the jobs and the places that are suspect.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .breach import Breach
from .look import Command, Look

ENDED = ("finished", "failed", "lost")
HAS_SLOT = ("dispatched", "running")
PARKED = ("parked", "waiting", "delayed")
#: Sorted sets of jobs for which something is due at a time.
AGENDAS = ("delayed", "expiring")


class Record(NamedTuple):
    """What a job's record says; all "" where there is none."""

    status: str
    node_id: str
    line: str
    ticket: str
    suffix: str
    where: str

    @classmethod
    def command(cls, look: Look, job_id: str) -> Command:
        """Reads what :meth:`of` is made of."""
        return ("HMGET", look.keys("job", job_id), *cls._fields)

    @classmethod
    def of(cls, values: list[str | None]) -> Record:
        """The record of these fields."""
        return cls(*(value or "" for value in values))

    @property
    def state(self) -> str:
        """In words."""
        at = f" at {self.node_id or 'no node'}" if self.status in HAS_SLOT else ""
        return f"is {self.status}{at}" if self.status else "has no record"


def check_records(look: Look, job_ids: Iterable[str]) -> Iterator[Breach]:
    """Jobs that have a record: is each where it says?"""
    going = []
    for job_id, (values, ttl) in look.read(
        (job_id, [Record.command(look, job_id), ("PTTL", look.keys("job", job_id))])
        for job_id in dict.fromkeys(job_ids)
    ):
        record = Record.of(values)
        if record.status in HAS_SLOT + PARKED:
            going.append((job_id, record))
        elif ttl == -1:
            yield _breach(look, "record_stays", job_id, f"{record.state}, and its key never lapses")
    for (job_id, record), answers in look.read(
        ((job_id, record), _questions(look, job_id, record)) for job_id, record in going
    ):
        if Record.of(answers[0]) == record:  # else it goes on, and is not where it was
            judge = _judge_holder if record.status in HAS_SLOT else _judge_parked
            yield from judge(look, job_id, record, *answers[1:])


def _questions(look: Look, job_id: str, record: Record) -> list[Command]:
    """What there is to know of a job that has not ended."""
    keys = look.keys
    questions: list[Command] = [
        Record.command(look, job_id),
        ("PTTL", keys("job", job_id)),
    ]
    if record.status in HAS_SLOT:
        return [*questions, ("ZSCORE", keys("node_jobs", record.node_id), job_id)]
    return [
        *questions,
        ("EXISTS", keys("job_queue", job_id) + record.suffix),
        ("ZSCORE", keys("waiting", record.line), record.ticket),
        *(("ZSCORE", keys(name), job_id) for name in AGENDAS),
    ]


def _judge_holder(look: Look, job_id: str, record: Record, ttl: int, slot: Any) -> Iterator[Breach]:
    if slot is None:
        key = look.keys("node_jobs", record.node_id)
        yield _breach(
            look, "job_without_slot", job_id, f"{record.state}, and holds no slot there", key
        )
    if ttl == -1:
        yield _breach(look, "record_stays", job_id, f"{record.state}, and its key never lapses")


def _judge_parked(
    look: Look, job_id: str, record: Record, ttl: int, has_message: int, ticket: Any, *agendas: Any
) -> Iterator[Breach]:
    keys, status = look.keys, record.status
    message = keys("job_queue", job_id) + record.suffix
    delayed, expiring = agendas
    place, is_there = {
        "waiting": (keys("waiting", record.line), ticket is not None),
        "delayed": (keys("delayed"), delayed is not None),
        # It was revoked, and a node has yet to tell of that and to discard it.
        "parked": (keys("expiring"), expiring is not None),
    }[status]
    if not is_there:
        yield _breach(
            look, "job_without_place", job_id, f"{record.state}, and is not in {place}", place
        )
    if not has_message:
        yield _breach(
            look, "job_without_message", job_id, f"{record.state}, and has no message", message
        )
    if has_message and not record.where:
        what = f"{record.state}, and its record has lost what it asks for"
        yield _breach(look, "job_without_demand", job_id, what, message)
    if ttl != -1 and status != "parked":
        yield _breach(look, "record_lapses", job_id, f"{record.state}, and its key may lapse first")


class Seen(NamedTuple):
    """A key that names a job."""

    name: str  # of the key
    key: str
    job_id: str
    #: How it names it, in a set; "" for the list of the job's message.
    member: str = ""
    #: The node or the line whose key it is.
    owner: str = ""

    @property
    def question(self) -> Command:
        """Is it still there?"""
        if not self.member:
            return ("EXISTS", self.key)
        return ("ZSCORE", self.key, self.member)


def check_places(look: Look, names: Iterable[Seen]) -> Iterator[Breach]:
    """What names a job: does the job's record say so?"""
    for seen, (values, is_there, is_told) in look.read(
        (
            seen,
            [
                Record.command(look, seen.job_id),
                seen.question,
                ("ZSCORE", look.keys("lost"), seen.job_id),
            ],
        )
        for seen in names
    ):
        record = Record.of(values)
        if is_there is None or (is_there == 0 and seen.question[0] != "ZSCORE"):
            continue  # it was just now
        if seen.name == "job_queue":
            if is_told is None and record.status not in HAS_SLOT + PARKED:
                what = f"{record.state}, and its message lies there"
                yield _breach(look, "message_without_job", seen.job_id, what, seen.key)
        elif not _belongs(seen, record):
            what = f"{record.state}, and is in {seen.key}"
            yield _breach(look, _STALE[seen.name], seen.job_id, what, seen.key, seen=seen)


_STALE = {
    "node_jobs": "slot_without_job",
    "waiting": "ticket_without_job",
    **dict.fromkeys(AGENDAS, "entry_without_job"),
}


def _belongs(seen: Seen, record: Record) -> bool:
    if seen.name == "node_jobs":
        return record.status in HAS_SLOT and record.node_id == seen.owner
    if seen.name == "waiting":
        return (record.status, record.line, record.ticket) == ("waiting", seen.owner, seen.member)
    if seen.name == "expiring":
        return record.status in PARKED
    return record.status == seen.name


def _breach(
    look: Look, code: str, job_id: str, what: str, *keys: str, seen: Seen | None = None
) -> Breach:
    where: tuple[str, ...] = ()  # as repair_job takes it: a node, or a line and the ticket there
    if seen:
        where = (seen.owner,)
        if seen.name != "node_jobs":
            where = ("", seen.owner, seen.member if seen.name == "waiting" else "")
    return Breach(
        code=code,
        sentence=f"job {job_id} {what}",
        keys=(look.keys("job", job_id), *keys),
        subject=("slot" if code == "job_without_slot" else "job", job_id, *where),
    )
