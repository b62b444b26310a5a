"""How much memory of Redis do the objects of the scheduler take?

The benchmark creates thousands of objects of one kind and reads ``used_memory`` before and after.
As a check it also adds up ``MEMORY USAGE`` of all new keys. This sum does not include the memory
for TTLs and for larger hash tables.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import cast

import click
import redis

from benchmarks.common import machine, print_table, say
from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
)
from celery_minsched.core.models import DispatchResponse
from tests.support.server import Server

DAY = 86400.0  # seconds
MESSAGE = 1024  # bytes
SLOTS = 8
PAGE = 500  # keys in a round trip
WARM = 100
#: Combinations of capabilities. Each makes a line.
LINES = list(combinations([f"capability-{number}" for number in range(40)], 3))


class Store:
    """A server with a node that has a slot for each job, and a node that has one slot."""

    def __init__(self, client: redis.Redis, jobs: int) -> None:
        self.service = MinimalSchedulerService(
            client, Settings(node_ttl=DAY, lease=DAY, history_ttl=2 * DAY)
        )
        for number in range(jobs // SLOTS + 1):
            self.add_node(-number)
        self.service.register_node(
            RegisterNodeRequest(node_id="single", max_jobs=1, pools_json='["full"]')
        )

    def add_node(self, number: int) -> None:
        """A node in two pools with a capability."""
        self.service.register_node(
            RegisterNodeRequest(
                node_id=f"gpu{number:+06}",
                max_jobs=SLOTS,
                pools_json='["asr", "mt"]',
                cap_json='["whisper-large"]',
            )
        )

    def add_running(self, number: int, session: str = "") -> DispatchResponse:
        """A claimed job without its message. The node stores the message, as in plain Celery."""
        job = self._send("asr", session)
        self.service.redis.delete(self.service.keys("node_queue", job.node_id))
        self.service.claim_job(job.job_id, job.node_id, str(uuid.uuid4()), uuid.uuid4().hex)
        return job

    def add_waiting(self, number: int) -> None:
        """A job in line and its message."""
        self._send("full", "")

    def add_waiting_of_session(self, number: int) -> None:
        """A job in line with its own session and fairness key."""
        self._send("full", f"user-{number:06}")

    def add_line(self, number: int) -> None:
        """A job in its own line."""
        self._send("full", "", LINES[number % len(LINES)])

    def add_ended(self, number: int, session: str = "") -> None:
        """An ended job."""
        job = self.add_running(number, session)
        self.service.complete_task(
            CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
        )

    def add_session(self, number: int) -> None:
        """An ended job with its own session."""
        self.add_ended(number, f"user-{number:06}")

    def _send(self, pool: str, session: str, capabilities: Sequence[str] = ()) -> DispatchResponse:
        demand = DispatchRequest(
            pool=pool,
            capabilities=list(capabilities),
            session_id=session,
            task_id=str(uuid.uuid4()),
            token=uuid.uuid4().hex,
            when_full="wait",
        )
        [job] = self.service.dispatch_tasks([(demand, ("x" * (MESSAGE - 10), ""))])
        return cast("DispatchResponse", job)


#: The functions that create one object each, by kind.
THINGS: dict[str, Callable[[Store, int], object]] = {
    f"a node ({SLOTS} slots, 2 pools, a capability)": Store.add_node,
    "a running job": Store.add_running,
    "a waiting job, with its message of 1 KB": Store.add_waiting,
    "a waiting job with a session of its own, and its message": Store.add_waiting_of_session,
    "a waiting job in a line of its own, and its message": Store.add_line,
    "an ended job, until its TTL ends": Store.add_ended,
    "an ended job with its own session": Store.add_session,
}


def used_memory(client: redis.Redis) -> int:
    """The server's memory in bytes, without the memory of its clients."""
    memory = client.info("memory")
    return int(memory["used_memory"]) - int(memory["mem_clients_normal"])


def size_of_keys(client: redis.Redis) -> int:
    """The size of all keys and values in bytes."""
    total = 0
    keys = list(client.scan_iter(count=PAGE))
    for start in range(0, len(keys), PAGE):
        with client.pipeline(transaction=False) as pipe:
            for key in keys[start : start + PAGE]:
                pipe.memory_usage(key, samples=0)
            total += sum(pipe.execute())
    return total


def measure(store: Store, add: Callable[[Store, int], object], count: int) -> list[str]:
    """Bytes of one object, by the server's memory and by the size of its keys."""

    def read_sizes() -> tuple[int, int]:
        client.delete(store.service.keys("events"))  # Redis keeps at most 10,000 events
        return used_memory(client), size_of_keys(client)

    client = store.service.redis
    # Creates all data that exists only once, such as scripts and counts.
    for number in range(WARM):
        add(store, number)
    before = read_sizes()
    for number in range(WARM, WARM + count):
        add(store, number)
    return [
        f"{(more - less) / count:,.0f}" for less, more in zip(before, read_sizes(), strict=True)
    ]


@click.command()
@click.option("--count", default=5000, type=click.IntRange(1), help="Objects of each kind.")
def main(count: int) -> None:
    """Measure the bytes in Redis of a node and of a job."""
    rows: list[list[str]] = []
    for name, add in THINGS.items():
        server = Server()
        try:
            with server.client() as client:
                if not rows:
                    say(machine(client))
                rows.append([name, *measure(Store(client, WARM + count), add, count)])
        finally:
            server.close()
    print_table(
        f"Bytes in Redis for one of {count:,}",
        ["", "used_memory", "MEMORY USAGE of its keys"],
        rows,
    )


if __name__ == "__main__":
    main()
