"""The outcomes of dispatches and completions: return values and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import errors
from .describe import demand_in_words
from .job_fields import JobToDispatch
from .models import (
    CompleteTaskRequest,
    CompleteTaskResponse,
    DispatchRequest,
    DispatchResponse,
    NextJob,
)
from .texts import text


def outcomes_of(
    answers: list[Any], jobs: Sequence[JobToDispatch]
) -> list[DispatchResponse | errors.SchedulerError]:
    """The outcomes of jobs, up to the first refused job. The script ignores the jobs after it."""
    return [outcome_of(answer, job[0]) for answer, job in zip(answers, jobs, strict=False)]


def outcome_of(
    answer: list[Any], request: DispatchRequest
) -> DispatchResponse | errors.SchedulerError:
    """The outcome of one job, from the script's answer for it."""
    if answer[0] != "OK":
        return _refusal(answer, request)
    _, node_id, job_id, pool, chosen_by = answer
    return DispatchResponse(node_id=node_id, job_id=job_id, pool=pool, chosen_by=chosen_by)


def _refusal(answer: list[Any], request: DispatchRequest) -> errors.SchedulerError:
    """The error for a job that was refused."""
    code, *values = answer
    capabilities = request.capabilities
    if code == errors.NoPoolForLangPair.code:
        pool = request.pool
        return errors.NoPoolForLangPair(
            where=f"pool {pool!r} does not list it, and no other pool" if pool else "no pool",
            src_lang=request.src_lang,
            tgt_lang=request.tgt_lang,
        )
    if code == errors.EmptyPool.code:
        return errors.EmptyPool(
            pool=values[0],
            with_capability=f"with {', '.join(capabilities)} " if capabilities else "",
            flags="".join(f" --capability {name}" for name in capabilities),
        )
    demand = demand_in_words(request.pool_selector, capabilities)
    if code == errors.Backlogged.code:
        return errors.Backlogged(waiting=values[0], demand=demand)
    return errors.NoAvailableNode(demand=demand)


def completion_of(
    request: CompleteTaskRequest, answer: list[Any] | Exception
) -> CompleteTaskResponse | Exception:
    """The outcome of a completion, from the script's answer in bytes. The message of the next job
    stays as it is.
    """
    if isinstance(answer, Exception):
        return answer
    code, *values = answer
    code = text(code)
    if code == errors.UnknownJob.code:
        return errors.UnknownJob(job_id=request.job_id)
    if code == errors.NodeMismatch.code:
        return errors.NodeMismatch(
            job_id=request.job_id, node_id=request.node_id, owner=text(values[0])
        )
    next_job = None
    if values:
        job_id, message, pool, chosen_by, waited_ms, term = values
        next_job = NextJob(
            job_id=text(job_id),
            message=message,
            pool=text(pool),
            chosen_by=text(chosen_by),
            waited_ms=waited_ms,
            term=term,
        )
    return CompleteTaskResponse(
        job_id=request.job_id, already_ended=code != "OK", next_job=next_job
    )
