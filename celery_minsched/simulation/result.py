"""The result of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, quantiles

from pydantic import BaseModel


class Times(BaseModel):
    """Statistics of a time of all jobs, in seconds."""

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
    """Times are in simulated seconds. Times of Redis are real."""

    nodes: int
    slots: int
    #: From the first arrival to the last end.
    seconds: float
    #: Arriving jobs.
    jobs_per_second: float
    #: From a job's arrival until it gets a slot.
    waits: Times
    waits_by_pool: dict[str, Times]
    #: From a job's arrival to its end.
    responses: Times
    #: Share of the time in which slots are taken: of all nodes, of the least and most used node.
    utilisation: float
    least_utilised: float
    most_utilised: float
    #: Fairness index of Jain, Chiu and Hawe (1984). 1 if all nodes have the same share of taken
    #: slots, 1/n if one of n nodes runs all jobs.
    fairness: float
    #: Time in the scripts of a job (dispatch, claim and end), and of a heartbeat.
    redis_us_per_job: float
    redis_us_per_heartbeat: float
    #: The share of one core that Redis needs for these scripts at this rate.
    redis_share: float
