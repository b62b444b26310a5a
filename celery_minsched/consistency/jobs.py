"""Rules about a job: its record names the key in which the job is (invariant 2).

The rules read a suspect job and its places in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..core.statuses import HAS_SLOT, UNASSIGNED
from ..core.stored import Command
from .records import JobRecord
from .state_scan import StateScan, is_present
from .violation import Violation

#: Sorted sets of jobs by the time at which something is due.
AGENDAS = ("delayed", "expiring")


def check_records(scan: StateScan, job_ids: Iterable[str]) -> Iterator[Violation]:
    """Is each job in the key that its record names?"""
    active = []
    for job_id, (values, ttl) in scan.read(
        (job_id, [JobRecord.command(scan.keys, job_id), ("PTTL", scan.keys("job", job_id))])
        for job_id in dict.fromkeys(job_ids)
    ):
        record = JobRecord.of(values)
        if record.status in HAS_SLOT + UNASSIGNED:
            active.append((job_id, record))
        elif ttl == -1:
            yield _record_stays(scan, job_id, record)
    for (job_id, record), answers in scan.read(
        ((job_id, record), _questions(scan, job_id, record)) for job_id, record in active
    ):
        if JobRecord.of(answers[0]) == record:  # else the job has moved
            rule = _check_assigned if record.status in HAS_SLOT else _check_unassigned
            yield from rule(scan, job_id, record, *answers[1:])


def _questions(scan: StateScan, job_id: str, record: JobRecord) -> list[Command]:
    """The commands that read the state of an active job."""
    keys = scan.keys
    questions: list[Command] = [
        JobRecord.command(keys, job_id),
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


def _check_assigned(
    scan: StateScan, job_id: str, record: JobRecord, ttl: int, slot: Any
) -> Iterator[Violation]:
    if slot is None:
        key = scan.keys("node_jobs", record.node_id)
        fault = f"{record.state} but holds no slot there"
        yield _violation(scan, "job_without_slot", job_id, fault, key)
    if ttl == -1:
        yield _record_stays(scan, job_id, record)


def _check_unassigned(
    scan: StateScan,
    job_id: str,
    record: JobRecord,
    ttl: int,
    has_message: int,
    queue_entry: Any,
    *agendas: Any,
) -> Iterator[Violation]:
    keys, status = scan.keys, record.status
    message = keys("job_queue", job_id) + record.suffix
    delayed, expiring = agendas
    place, is_there = {
        "waiting": (keys("waiting", record.line), queue_entry is not None),
        "delayed": (keys("delayed"), delayed is not None),
        # The task was revoked. A node will report it and discard the job.
        "parked": (keys("expiring"), expiring is not None),
    }[status]
    if not is_there:
        fault = f"{record.state} but is not in {place}"
        yield _violation(scan, "job_without_place", job_id, fault, place)
    if not has_message:
        fault = f"{record.state} but has no message"
        yield _violation(scan, "job_without_message", job_id, fault, message)
    if has_message and not record.where:
        fault = f"{record.state} but its record has lost its demand"
        yield _violation(scan, "job_without_demand", job_id, fault, message)
    if ttl != -1 and status != "parked":
        fault = f"{record.state} but its record has a TTL, so Redis may delete it too early"
        yield _violation(scan, "record_lapses", job_id, fault)


class Reference(NamedTuple):
    """A key that names a job."""

    name: str  # the kind of key
    key: str
    job_id: str
    #: The member that names the job, "" for the list of the job's message.
    member: str = ""
    #: The node or the line of the key.
    owner: str = ""

    @property
    def question(self) -> Command:
        """The command that asks if the reference still exists."""
        if not self.member:
            return ("EXISTS", self.key)
        return ("ZSCORE", self.key, self.member)


def check_references(scan: StateScan, references: Iterable[Reference]) -> Iterator[Violation]:
    """Does the job's record agree with each key that names the job?"""
    for reference, (values, answer, lost_score) in scan.read(
        (
            reference,
            [
                JobRecord.command(scan.keys, reference.job_id),
                reference.question,
                ("ZSCORE", scan.keys("lost"), reference.job_id),
            ],
        )
        for reference in references
    ):
        record = JobRecord.of(values)
        if not is_present(reference.question, answer):
            continue  # the job has moved since the first read
        if reference.name == "job_queue":
            if lost_score is None and record.status not in HAS_SLOT + UNASSIGNED:
                fault = f"{record.state} but its message still exists"
                yield _violation(
                    scan, "message_without_job", reference.job_id, fault, reference.key
                )
        elif not _agrees(record, reference):
            fault = f"{record.state} but is in {reference.key}"
            yield _stale_reference(scan, reference, fault)


_STALE = {
    "node_jobs": "slot_without_job",
    "waiting": "ticket_without_job",
    **dict.fromkeys(AGENDAS, "entry_without_job"),
}


def _agrees(record: JobRecord, reference: Reference) -> bool:
    if reference.name == "node_jobs":
        return record.status in HAS_SLOT and record.node_id == reference.owner
    if reference.name == "waiting":
        place = ("waiting", reference.owner, reference.member)
        return (record.status, record.line, record.ticket) == place
    if reference.name == "expiring":
        return record.status in UNASSIGNED
    return record.status == reference.name


def _stale_reference(scan: StateScan, reference: Reference, fault: str) -> Violation:
    """A violation with the place of the job: a node, or a line and its member."""
    place: tuple[str, ...] = (reference.owner,)
    if reference.name != "node_jobs":
        member = reference.member if reference.name == "waiting" else ""
        place = ("", reference.owner, member)
    code = _STALE[reference.name]
    return _violation(scan, code, reference.job_id, fault, reference.key, place=place)


def _record_stays(scan: StateScan, job_id: str, record: JobRecord) -> Violation:
    fault = f"{record.state} but its record has no TTL, so Redis never deletes it"
    return _violation(scan, "record_stays", job_id, fault)


def _violation(
    scan: StateScan, code: str, job_id: str, fault: str, *keys: str, place: tuple[str, ...] = ()
) -> Violation:
    return Violation(
        code=code,
        sentence=f"job {job_id} {fault}",
        keys=(scan.keys("job", job_id), *keys),
        subject=("slot" if code == "job_without_slot" else "job", job_id, *place),
    )
