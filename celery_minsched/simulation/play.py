"""Plays the nodes and the publishers: sends each arrival and each end to Redis at its time."""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from ..core.models import DispatchRequest, HeartbeatRequest, RegisterNodeRequest
from ..core.texts import text
from .clock import VirtualScheduler
from .result import Result, Times
from .trace import Job, Node

MAX_EVENTS = 500  # in one round trip


def simulate(
    client: redis.Redis,
    jobs: Sequence[Job],
    nodes: Sequence[Node],
    overhead: float = 0.0,
    progress: Callable[[int], object] = lambda arrived: None,
) -> Result:
    """Simulate jobs on nodes, on an empty database. The jobs are in the order of their arrival.

    ``overhead`` is the time in seconds that a job holds its slot before and after its work, for
    messages and scripts. ``progress`` gets the number of jobs that have arrived since its last
    call.

    Raises ``ValueError`` if the pool of a job has no node, and pydantic's ``ValidationError`` if a
    node cannot register.
    """
    pools = {pool for node in nodes for pool in node.pools}
    if missing := {job.pool for job in jobs} - pools:
        raise ValueError(f"pool {', '.join(sorted(missing))} has no node")
    play = _Play(client, jobs, nodes, overhead)
    progress(0)
    halfway = len(jobs) // 2
    while events := play.next_events():
        before = play.arrived - sum(event.is_arrival for event in events)
        play.pass_time(events)
        progress(play.arrived - before)
        if before <= halfway < play.arrived:
            play.send_heartbeats()
    return play.result()


@dataclass(frozen=True)
class _Event:
    """The arrival or the end of a job."""

    at: float
    number: int
    is_arrival: bool


class _Play:
    def __init__(
        self, client: redis.Redis, jobs: Sequence[Job], nodes: Sequence[Node], overhead: float
    ) -> None:
        self.arrived = 0
        self._jobs = jobs
        self._nodes = nodes
        self._overhead = overhead
        self._redis = client
        self._scheduler = VirtualScheduler(client)
        self._ends: list[tuple[float, int]] = []
        self._running: dict[int, tuple[str, str]] = {}  # job id and node by job number
        self._waiting: dict[int, str] = {}  # job id by job number
        self._unclaimed: list[int] = []
        self._shortest = overhead + min(job.work for job in jobs)
        self._waits = [math.nan] * len(jobs)
        self._last_end = 0.0
        self._busy: defaultdict[str, float] = defaultdict(float)  # slot seconds by node
        self._heartbeats_us = 0.0
        for node in nodes:
            self._scheduler.register_node(
                RegisterNodeRequest(
                    node_id=node.name, max_jobs=node.slots, pools_json=json.dumps(node.pools)
                )
            )
        self._used_us = self._script_us()

    def next_events(self) -> list[_Event]:
        """The next events. A job that begins at one of them cannot end before the last one."""
        events: list[_Event] = []
        while len(events) < MAX_EVENTS:
            end = self._ends[0][0] if self._ends else math.inf
            more = self.arrived < len(self._jobs)
            arrival = self._jobs[self.arrived].at if more else math.inf
            now = min(end, arrival)
            if now == math.inf or (events and now >= events[0].at + self._shortest):
                break
            if end <= arrival:
                _, number = heapq.heappop(self._ends)
            else:
                number = self.arrived
                self.arrived += 1
            events.append(_Event(now, number, is_arrival=arrival < end))
        return events

    def pass_time(self, events: Sequence[_Event]) -> None:
        """Send the events to Redis, each at its time, and note the jobs that begin."""
        scheduler = self._scheduler
        with self._redis.pipeline(transaction=False) as pipe:
            for number in self._unclaimed:
                scheduler.claim_job_in(pipe, *self._running[number])
            claims = len(pipe)
            self._unclaimed.clear()
            for event in events:
                scheduler.now = event.at
                if event.is_arrival:
                    message = (f"{event.number} ", "")
                    scheduler.dispatch_in(pipe, self._request(event.number), message)
                else:
                    scheduler.complete_in(
                        pipe, *self._running[event.number], _task_id(event.number)
                    )
            answers = iter(pipe.execute()[claims:])
        for event in events:
            if event.is_arrival:
                self._on_dispatch(event, next(answers)[0])
            else:
                next(answers), next(answers)
                self._on_end(event, next(answers) or ())

    def _request(self, number: int) -> DispatchRequest:
        job = self._jobs[number]
        return DispatchRequest(
            pool=job.pool, session_id=job.session, when_full="wait", task_id=_task_id(number)
        )

    def _on_dispatch(self, event: _Event, answer: Sequence[Any]) -> None:
        _, node_id, job_id, *_ = text(answer)
        if node_id:
            self._begin(event.number, job_id, node_id, event.at)
        else:
            self._waiting[event.number] = job_id

    def _on_end(self, event: _Event, messages: Sequence[bytes]) -> None:
        """A job has ended. ``messages`` are the new messages in the node's queue."""
        _, node_id = self._running.pop(event.number)
        for message in messages:
            number = int(message.split()[0])
            if job_id := self._waiting.pop(number, ""):
                self._begin(number, job_id, node_id, event.at)

    def _begin(self, number: int, job_id: str, node_id: str, now: float) -> None:
        taken = self._overhead + self._jobs[number].work
        self._running[number] = job_id, node_id
        self._unclaimed.append(number)
        self._waits[number] = now - self._jobs[number].at
        self._busy[node_id] += taken
        self._last_end = max(self._last_end, now + taken)
        heapq.heappush(self._ends, (now + taken, number))

    def send_heartbeats(self) -> None:
        """Send a heartbeat of each node, to measure their cost."""
        before = self._script_us()
        jobs_by_node: dict[str, list[str]] = {node.name: [] for node in self._nodes}
        for job_id, node_id in self._running.values():
            jobs_by_node[node_id].append(job_id)
        for node_id, job_ids in jobs_by_node.items():
            answer = self._scheduler.heartbeat(HeartbeatRequest(node_id=node_id, jobs=job_ids))
            self._interval = answer.interval
        self._heartbeats_us = self._script_us() - before

    def result(self) -> Result:
        """The result, after the last event."""
        slots = sum(node.slots for node in self._nodes)
        shares = [self._busy[node.name] / node.slots / self._last_end for node in self._nodes]
        per_job = (self._script_us() - self._used_us - self._heartbeats_us) / len(self._jobs)
        per_heartbeat = self._heartbeats_us / len(self._nodes)
        heartbeat_rate = len(self._nodes) / self._interval
        rate = len(self._jobs) / (self._jobs[-1].at or self._last_end)
        waits: defaultdict[str, list[float]] = defaultdict(list)
        for job, wait in zip(self._jobs, self._waits, strict=True):
            waits[job.pool].append(wait)
        return Result(
            nodes=len(self._nodes),
            slots=slots,
            seconds=self._last_end,
            jobs_per_second=rate,
            waits=Times.of(self._waits),
            responses=Times.of(
                [
                    wait + self._overhead + job.work
                    for job, wait in zip(self._jobs, self._waits, strict=True)
                ]
            ),
            waits_by_pool={pool: Times.of(of_pool) for pool, of_pool in sorted(waits.items())},
            utilisation=sum(self._busy.values()) / slots / self._last_end,
            least_utilised=min(shares),
            most_utilised=max(shares),
            fairness=sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)),
            redis_us_per_job=per_job,
            redis_us_per_heartbeat=per_heartbeat,
            redis_share=(rate * per_job + heartbeat_rate * per_heartbeat) / 1e6,
        )

    def _script_us(self) -> float:
        """Time that the server has spent in scripts, in µs."""
        stats: dict[str, dict[str, float]] = self._redis.info("commandstats")
        return stats["cmdstat_evalsha"]["usec"] if "cmdstat_evalsha" in stats else 0.0


def _task_id(number: int) -> str:
    """A task id as long as one of Celery."""
    return f"{number:036}"
