"""Compares dispatch_task and complete_task with the least pair of scripts.

The first script of the pair takes a slot, and the second frees it. The pair also records the job.
It has no heartbeats, capabilities, sessions or lines, and it checks no arguments. It is the floor
for the server time of a dispatch and a completion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from benchmarks.common import Figure, print_table
from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
)
from celery_minsched.core.models import DispatchResponse

PREFIX = "least:"
POOL = "asr"
NODE = "node-0"
COMPLETE_AND_CLAIM = "complete, with the claim of the next job"
#: The commands of the measurement itself.
_NOT_COUNTED = ("cmdstat_evalsha", "cmdstat_config|resetstat", "cmdstat_info")
_DISPATCH, _COMPLETE = (
    (Path(__file__).parent / f"least_{name}.lua").read_text(encoding="utf-8")
    for name in ("dispatch", "complete")
)


class LeastPair:
    """The two scripts, with their own nodes in the server of a fleet."""

    def __init__(self, client: redis.Redis, nodes: int, slots: int) -> None:
        self._client = client
        self._dispatch, self._complete = map(client.script_load, (_DISPATCH, _COMPLETE))
        with client.pipeline() as pipe:
            for number in range(nodes):
                pipe.hset(f"{PREFIX}node:info:node-{number}", "max_jobs", slots)
                pipe.zadd(f"{PREFIX}pool:{POOL}:free", {f"node-{number}": 0})
            pipe.execute()

    def work(self, jobs: int, most_open: int) -> None:
        """Dispatch and complete ``jobs`` jobs. At most ``most_open`` jobs are open at a time."""
        opened: deque[list[str]] = deque()
        for number in range(jobs + most_open):
            if number < jobs:
                opened.append(self._client.evalsha(self._dispatch, 1, PREFIX, POOL))
            if number >= most_open and opened:
                self._client.evalsha(self._complete, 1, PREFIX, POOL, *opened.popleft())


def server_time(client: redis.Redis, calls: Callable[[], object], pieces: int) -> float:
    """The server's time in scripts during ``calls``, in µs, divided by ``pieces``."""
    client.config_resetstat()
    calls()
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec"]) / pieces


def commands(client: redis.Redis, calls: Callable[[], object], pieces: int) -> float:
    """The number of commands of the scripts during ``calls``, divided by ``pieces``."""
    client.config_resetstat()
    calls()
    stats = client.info("commandstats")
    return (
        float(sum(stat["calls"] for name, stat in stats.items() if name not in _NOT_COUNTED))
        / pieces
    )


def print_steps(costs: Mapping[str, tuple[float, float]]) -> None:
    """Print the commands and the server time of each step of a job."""
    rows = [(step, *(f"{figure:.1f}" for figure in cost)) for step, cost in costs.items()]
    print_table("The steps of a job", ["step", "commands", "server time, µs"], rows)


def step_costs(client: redis.Redis, jobs: int) -> dict[str, tuple[float, float]]:
    """The commands and the server time in µs of each step of a job. Empties the server."""
    client.flushall()
    service = MinimalSchedulerService(client)
    request = RegisterNodeRequest(node_id=NODE, max_jobs=jobs, pools_json=f'["{POOL}"]')
    service.register_node(request)
    message = ('{"job_id": ', "}")
    demand = DispatchRequest(pool=POOL, when_full="wait")
    placed: list[DispatchResponse] = []

    def dispatch() -> None:
        for _ in range(jobs):
            placed.append(service.dispatch_task(demand.model_copy(update={"when_full": "error"})))

    def complete() -> None:
        for job in placed:
            service.complete_task(
                CompleteTaskRequest(job_id=job.job_id, node_id=NODE, status="finished")
            )

    def claim_next() -> None:
        last = running[-1]
        for number in range(jobs):
            answer = service.complete_task(
                CompleteTaskRequest(
                    job_id=last,
                    node_id=NODE,
                    status="finished",
                    claim=f"claim {number}" if number else "",
                    delivery_tag=last,
                    next_claim=f"claim {number + 1}",
                )
            )
            assert answer.next_job
            last = answer.next_job.job_id

    dispatch()  # loads the scripts
    complete()
    placed.clear()
    steps = {"dispatch": dispatch, "complete": complete}
    costs = {name: _cost(client, calls, jobs) for name, calls in steps.items()}
    client.hset(service.keys("node_info", NODE), "max_jobs", 1)
    running = [service.dispatch_tasks([(demand, message)])[0].job_id]  # type: ignore[union-attr]
    for _ in range(jobs):
        service.dispatch_tasks([(demand, message)])
    costs[COMPLETE_AND_CLAIM] = _cost(client, claim_next, jobs)
    return costs


def _cost(client: redis.Redis, calls: Callable[[], object], pieces: int) -> tuple[float, float]:
    return commands(client, calls, pieces), _time_of(client, pieces)


def _time_of(client: redis.Redis, pieces: int) -> float:
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec"]) / pieces


def print_ratio(pair: list[float], least: list[float]) -> None:
    """Print the server time of a dispatch and a completion, and of the least pair."""
    ratio = Figure.of([ours / other for ours, other in zip(pair, least, strict=True)])
    print_table(
        "server time of dispatch + complete ÷ the least pair, same run",
        ["", "dispatch + complete, µs", "the least pair, µs", "ratio"],
        [["pool, no session, no line", Figure.of(pair), Figure.of(least), ratio]],
    )
