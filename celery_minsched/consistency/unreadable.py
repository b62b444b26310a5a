"""Rules about keys and records that are unreadable: no version of the scheduler writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.stored import ask
from ..core.texts import record_of, text_of
from ..core.times import is_readable
from ..monitor.job_record import read_job
from .state_scan import StateScan
from .violation import Violation

_CAUSE = "Another program or an operator wrote it."


def check_keys(scan: StateScan) -> Iterator[Violation]:
    """Check the types and names of keys, and the fleet's times. This check must be the last."""
    for code, keys, sentence, remedy in (
        (
            *("key_of_wrong_type", scan.wrong_types),
            "the key {} has another type than the scheduler's key of this name",
            "DEL the key, and run check --repair.",
        ),
        (
            *("key_unreadable", scan.unreadable_names),
            "the name of the key {} is not UTF-8",
            "Find it with SCAN 0 MATCH, and DEL it.",
        ),
        (
            *("member_unreadable", scan.unreadable_members),
            "the key {} has a member that is not UTF-8",
            "Remove the member.",
        ),
    ):
        for key in sorted(keys):
            yield Violation(
                code=code,
                sentence=sentence.format(key),
                keys=(key,),
                remedy=f"{_CAUSE} {remedy}",
            )
    times = scan.keys("times")
    [fleet] = ask(scan.redis, [("GET", times)])
    if fleet is not None and not is_readable(text_of(fleet)):
        yield Violation(
            code="times_unreadable",
            sentence="the fleet's times are unreadable, so each process uses its own settings",
            keys=(times,),
            remedy=f"{_CAUSE} The next node that registers writes them again.",
        )


def check_unreadable(scan: StateScan, job_ids: Iterable[str]) -> Iterator[Violation]:
    """Check jobs whose records may be unreadable."""
    for job_id, [record] in scan.read(
        (job_id, [("HGETALL", scan.keys("job", job_id))]) for job_id in job_ids
    ):
        job = read_job(job_id, record_of(record))
        if record and job.broken:
            yield Violation(
                code="job_unreadable",
                sentence=f"the record of job {job_id} is unreadable: {job.broken}",
                keys=(scan.keys("job", job_id),),
                remedy=f"{_CAUSE} If the task waits, revoke it and send it again. Redis deletes "
                "the record some time after the job ends.",
            )
