"""Keys and records that cannot be read: no version of the scheduler writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.reading import text_of
from ..core.stored import ask
from ..core.times import is_readable
from ..monitor.job_record import read_job
from .breach import Breach
from .look import Look

_BY_HAND = "Another program put it there, or an operator."


def check_keys(look: Look) -> Iterator[Breach]:
    """Keys of the wrong type, with unreadable names, and the fleet's times. It comes last."""
    for code, found, sentence, remedy in (
        (
            *("key_of_wrong_type", look.wrong_types),
            "the key {} is of another type than the scheduler's key of this name",
            "DEL the key, and run check --repair.",
        ),
        (
            *("key_unreadable", look.unreadable_names),
            "the name of the key {} is not UTF-8",
            "Find it with SCAN 0 MATCH, and DEL it.",
        ),
        (
            *("member_unreadable", look.unreadable_members),
            "the key {} has a member that is not UTF-8",
            "Remove the member.",
        ),
    ):
        for key in sorted(found):
            yield Breach(
                code=code,
                sentence=sentence.format(key),
                keys=(key,),
                remedy=f"{_BY_HAND} {remedy}",
            )
    times = look.keys("times")
    [fleet] = ask(look.redis, [("GET", times)])
    if fleet is not None and not is_readable(text_of(fleet)):
        yield Breach(
            code="times_unreadable",
            sentence="the fleet's times cannot be read, and each process uses its own settings",
            keys=(times,),
            remedy=f"{_BY_HAND} The next node that registers writes them anew.",
        )


def check_unreadable(look: Look, job_ids: Iterable[str]) -> Iterator[Breach]:
    """Jobs whose records cannot be read."""
    for job_id, [record] in look.read(
        (job_id, [("HGETALL", look.keys("job", job_id))]) for job_id in job_ids
    ):
        job = read_job(job_id, record)
        if record and job.broken:
            yield Breach(
                code="job_unreadable",
                sentence=f"the record of job {job_id} cannot be read: {job.broken}",
                keys=(look.keys("job", job_id),),
                remedy=f"{_BY_HAND} Revoke the task if it waits, and send it anew. The record "
                "lapses when the job ends.",
            )
