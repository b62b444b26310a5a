"""Two dispatchers without scripts: a table of nodes behind a lock.

Both read all nodes to find the least loaded, because their table has no order.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import socket
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis

from examples.locked_scheduler import LockedScheduler

#: Seconds between two attempts to take the lock. A dispatch takes longer with the default of 0.1.
_RETRY_INTERVAL = 0.001
_LANGUAGES = ("zh", "en")


class RedisLocked:
    """A table in a hash of Redis. A lock of redis-py protects each change."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._lock = client.lock("locked:lock", timeout=30, sleep=_RETRY_INTERVAL)

    def fill(self, nodes: int, slots: int) -> None:
        """Register nodes."""
        row = json.dumps({"max_jobs": slots, "current_jobs": 0, "load": 0.0})
        self._redis.hset("locked:nodes", mapping={f"node-{n}": row for n in range(nodes)})

    def dispatch(self, session: str) -> str:
        """Take a slot of the least-loaded node. Returns the job."""
        with self._lock:
            answer = cast("dict[str, str]", self._redis.hgetall("locked:nodes"))
            table = {node_id: json.loads(row) for node_id, row in answer.items()}
            free = (
                (row["current_jobs"] / row["max_jobs"], row["load"], node_id)
                for node_id, row in table.items()
                if row["current_jobs"] < row["max_jobs"]
            )
            node_id = min(free)[2]
            table[node_id]["current_jobs"] += 1
            job_id = f"{session}:{self._redis.incr('locked:numbers')}"
            self._redis.hset("locked:nodes", node_id, json.dumps(table[node_id]))
            self._redis.hset("locked:jobs", job_id, node_id)
        return job_id

    def complete(self, job_id: str) -> None:
        """Free the job's slot."""
        with self._lock:
            node_id = cast("str", self._redis.hget("locked:jobs", job_id))
            row = json.loads(cast("str", self._redis.hget("locked:nodes", node_id)))
            row["current_jobs"] -= 1
            self._redis.hset("locked:nodes", node_id, json.dumps(row))
            self._redis.hdel("locked:jobs", job_id)


class MutexClient:
    """A client of the process with the table. Requests and answers are lines."""

    def __init__(self, port: int) -> None:
        self._stream = socket.create_connection(("127.0.0.1", port)).makefile("rw")

    def dispatch(self, session: str) -> str:
        """Take a slot of the least-loaded node. Returns the job."""
        return self._ask(f"dispatch {session}")

    def complete(self, job_id: str) -> None:
        """Free the job's slot."""
        self._ask(f"complete {job_id}")

    def _ask(self, request: str) -> str:
        self._stream.write(f"{request}\n")
        self._stream.flush()
        return self._stream.readline().rstrip("\n")


@contextmanager
def mutex_server(nodes: int, slots: int) -> Iterator[int]:
    """Start a process with ``examples/locked_scheduler.py``. Returns its port."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end, nodes, slots), daemon=True)
    process.start()
    try:
        yield parent_end.recv()
    finally:
        process.kill()
        process.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


def _serve(port: multiprocessing.connection.Connection, nodes: int, slots: int) -> None:
    clock = itertools.repeat(0.0).__next__  # the nodes stay alive without heartbeats
    scheduler = LockedScheduler(clock)
    for number in range(nodes):
        scheduler.register_node(f"node-{number}", slots, _LANGUAGES)

    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            for line in self.rfile:
                verb, argument = line.decode().split()
                if verb == "dispatch":
                    answer, _ = scheduler.dispatch(argument, *_LANGUAGES)
                else:
                    scheduler.complete(argument)
                    answer = ""
                self.wfile.write(f"{answer}\n".encode())

    with _Server(("127.0.0.1", 0), Handler) as server:
        port.send(server.server_address[1])
        server.serve_forever()
