"""The jobs of a replay, and their times with an ideal queue."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from celery_minsched.simulation import trace
from celery_minsched.simulation.trace import Job, Node


def jobs_of(
    requests: Sequence[tuple[float, float]],
    seconds: float,
    work: float,
    busy: float,
    shares: Mapping[str, int],
) -> list[Job]:
    """The first requests as jobs that keep a share ``busy`` of the slots busy for some seconds.

    ``work`` is the mean work of a job in seconds. ``shares`` has each pool's share of the jobs in
    slots. Raises ``ValueError`` if there are not enough requests.
    """
    slots = sum(shares.values())
    count = round(busy * slots * seconds / work)
    if not 2 <= count <= len(requests):
        raise ValueError(
            f"{seconds} s of jobs of {work} s on {slots} slots are {count} requests, and the trace "
            f"has {len(requests)}: give other --seconds or --work"
        )
    return trace.jobs_of(requests[:count], seconds, work, shares)


def ideal(jobs: Sequence[Job], nodes: Sequence[Node]) -> list[float]:
    """Seconds from arrival to end of each job, with a queue that has no overhead.

    Jobs start in the order of their arrival. If several slots are free, a job takes a slot of the
    node with the fewest pools. Other nodes stay free for other pools.
    """
    free = {node.name: node.slots for node in nodes}
    choice = sorted(nodes, key=lambda node: len(node.pools))
    waiting: dict[str, deque[int]] = {job.pool: deque() for job in jobs}
    ends: list[tuple[float, int, Node]] = []
    responses = [0.0] * len(jobs)

    def begin(number: int, node: Node, now: float) -> None:
        free[node.name] -= 1
        end = now + jobs[number].work
        responses[number] = end - jobs[number].at
        heapq.heappush(ends, (end, number, node))

    def free_slots(until: float) -> None:
        while ends and ends[0][0] <= until:
            now, _, node = heapq.heappop(ends)
            free[node.name] += 1
            lines = [waiting[pool] for pool in node.pools if waiting.get(pool)]
            if lines:
                begin(min(lines, key=lambda line: line[0]).popleft(), node, now)

    for number, job in enumerate(jobs):
        free_slots(job.at)
        can = (node for node in choice if job.pool in node.pools and free[node.name])
        if node := next(can, None):
            begin(number, node, job.at)
        else:
            waiting[job.pool].append(number)
    free_slots(float("inf"))
    return responses


def with_work(jobs: Sequence[Job], seconds: Sequence[float]) -> list[Job]:
    """The same jobs with other durations."""
    return [replace(job, work=work) for job, work in zip(jobs, seconds, strict=True)]
