"""What became of each job of a dispatch: its place, or the error for which it was refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import errors
from .models import DispatchRequest, DispatchResponse


def is_refused(answer: list[Any]) -> bool:
    """Is it the answer for a job that was refused? The script looked at none after it."""
    return answer[0] not in ("OK", "GONE")


def outcomes_of(
    answers: list[Any], jobs: Sequence[tuple[DispatchRequest, tuple[str, str]]]
) -> list[DispatchResponse | errors.SchedulerError]:
    return [outcome_of(answer, job[0]) for answer, job in zip(answers, jobs, strict=False)]


def outcome_of(
    answer: list[Any], request: DispatchRequest
) -> DispatchResponse | errors.SchedulerError:
    code, *place = answer
    if code != "OK":
        return _refusal(answer, request)
    return DispatchResponse(**dict(zip(DispatchResponse.model_fields, place, strict=True)))


def _refusal(answer: list[Any], request: DispatchRequest) -> errors.SchedulerError:
    """The error for a dispatch that was refused, in the words of its demand."""
    code, *values = answer
    if code == errors.NoPoolForLangPair.code:
        where = (
            f"pool {request.pool!r} does not list it, and no other" if request.pool else "no pool"
        )
        return errors.NoPoolForLangPair(
            where=where, src_lang=request.src_lang, tgt_lang=request.tgt_lang
        )
    if code == errors.EmptyPool.code:
        return errors.EmptyPool(
            pool=values[0],
            with_capability=f"with {', '.join(request.capabilities)} "
            if request.capabilities
            else "",
            flags="".join(f" --capability {name}" for name in request.capabilities),
        )
    parts = [
        request.pool and f"pool {request.pool}",
        request.src_lang and f"{request.src_lang} to {request.tgt_lang}",
        request.capabilities and f"with {', '.join(request.capabilities)}",
    ]
    demand = ", ".join(part for part in parts if part)
    if code == errors.Backlogged.code:
        return errors.Backlogged(waiting=values[0], demand=demand)
    return errors.NoAvailableNode(demand=demand)
