"""What came of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, quantiles

from pydantic import BaseModel


class Times(BaseModel):
    """Of so many jobs; seconds."""

    jobs: int
    mean: float
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Times:
        return cls(
            jobs=len(times),
            mean=fmean(times),
            p50=median(times),
            p99=quantiles(times, n=100, method="inclusive")[-1] if len(times) > 1 else times[0],
            longest=max(times),
        )


class Result(BaseModel):
    """Times are of the simulated clock, but for those of Redis."""

    nodes: int
    slots: int
    #: From the first arrival to the last end.
    seconds: float
    #: As they arrived.
    jobs_per_second: float
    #: From the arrival until a slot is the job's.
    waits: Times
    waits_by_pool: dict[str, Times]
    #: From the arrival to the end.
    responses: Times
    #: Share of the slots' time in which they were taken; of all, and of the nodes at both ends.
    utilisation: float
    least_utilised: float
    most_utilised: float
    #: How evenly the nodes were used: 1 where each had the same share of its slots taken, 1/n where
    #: one did everything (Jain, Chiu and Hawe, 1984).
    fairness: float
    #: The server's own time in scripts for a job (dispatch, claim and end), and for a heartbeat.
    redis_us_per_job: float
    redis_us_per_heartbeat: float
    #: The share of one core that Redis needs for them at this rate, with a heartbeat a second.
    redis_share: float
