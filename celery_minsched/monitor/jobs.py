"""Reads jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, islice
from typing import cast

from ..core.reading import Reader, pages
from ..core.statuses import HAS_SLOT
from ..core.stored import Command, ask_each, is_wrong_type
from ..core.texts import record_of, text_of
from .job_record import read_job, unreadable_job
from .lines import first_job_ids, job_of_entry, line_names, parse_line
from .models import JobView
from .nodes import node_scores
from .possible import pools_of


def read_jobs(reader: Reader, job_ids: Iterable[str]) -> Iterator[JobView]:
    """The jobs of these ids that have a record."""
    for page in pages(job_ids):
        # HGETALL, because Redis searches a small hash for each field of an HMGET.
        commands: list[Command] = [("HGETALL", reader.keys("job", job_id)) for job_id in page]
        for job_id, answer in zip(page, ask_each(reader.redis, commands), strict=True):
            if is_wrong_type(answer):
                yield unreadable_job(job_id, "its record is not a hash")
            elif answer:
                yield read_job(job_id, record_of(answer))


def job(reader: Reader, job_id: str) -> JobView | None:
    """A job by its id."""
    return next(read_jobs(reader, [job_id]), None)


def job_of_task(reader: Reader, task_id: str) -> JobView | None:
    """The latest job of a task."""
    job_id = reader.ask_one("GET", reader.keys("task", task_id))
    return job(reader, text_of(job_id)) if job_id else None


def is_owner(reader: Reader, task_id: str, node_id: str, job_id: str, claim: str) -> bool:
    """Does the node run the job by this claim, and is there no later job of the same task?

    A record that a heartbeat has restored after Redis lost it has no claim and no task.
    """
    with reader.redis.pipeline(transaction=True) as pipe:
        pipe.hmget(reader.keys("job", job_id), "status", "node_id", "claim")
        pipe.get(reader.keys("task", task_id))
        record, latest_job = pipe.execute()
    status, owner, latest_claim = (text_of(value or "") for value in record)
    is_latest = latest_claim in ("", claim) and text_of(latest_job or job_id) == job_id
    return (status, owner) == ("running", node_id) and is_latest


def jobs(
    reader: Reader, limit: int, offset: int, node_id: str, pool: str, status: str
) -> list[JobView]:
    """Jobs that have a slot, wait or are delayed: at most ``limit``, after ``offset``.

    ``node_id``, ``pool`` and ``status`` select jobs, unless they are "". A job without a slot
    belongs to each pool that can serve it.
    """
    serves = cache(lambda selector: not pool or pool in pools_of(reader, selector))
    selected = (
        job
        for job in read_jobs(reader, _active_job_ids(reader, node_id, status, serves))
        if (not status or job.status == status)
        and (job.pool == pool or not pool if job.has_slot else serves(job.where))
    )
    return list(islice(selected, offset, offset + limit))


def jobs_at(reader: Reader, node_id: str) -> list[JobView]:
    """The jobs that hold the node's slots."""
    return list(read_jobs(reader, reader.in_order("node_jobs", node_id)))


def _active_job_ids(
    reader: Reader, node_id: str, status: str, serves: Callable[[str], bool]
) -> Iterator[str]:
    """Ids of jobs. Among them are all that :func:`jobs` selects."""
    if status in ("", *HAS_SLOT):
        node_ids = [node_id] if node_id else list(node_scores(reader))
        yield from reader.in_order_of("node_jobs", node_ids)
    if node_id:
        return
    if status in ("", "waiting"):
        served = (name for name in line_names(reader) if serves(parse_line(name).pool_selector))
        yield from map(job_of_entry, reader.in_order_of("waiting", served))
    if status in ("", "delayed"):
        yield from reader.in_order("delayed")


def in_lines(reader: Reader, names: Iterable[str], limits: Iterable[int]) -> list[list[JobView]]:
    """The first jobs of each line in their order, with a limit for each line."""
    job_ids = first_job_ids(reader, names, limits)
    by_id = {job.job_id: job for job in read_jobs(reader, chain.from_iterable(job_ids))}
    return [[by_id[job_id] for job_id in ids if job_id in by_id] for ids in job_ids]


def place_in_line(reader: Reader, job: JobView) -> int | None:
    """The number of jobs before a waiting job in its line, or ``None`` if it is in no line."""
    rank = reader.ask_one("ZRANK", reader.keys("waiting", job.line), job.ticket)
    return cast("int | None", rank)
