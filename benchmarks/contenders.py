"""The contenders: how each starts its workers and sends a job."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import redis

from benchmarks import replay_task, trace_app
from benchmarks.common import check, wait_for
from celery_minsched.simulation.trace import Job, Node

CONTENDERS = {
    "ours": "celery_minsched",
    "plain": "Celery, its defaults",
    "tuned": "Celery, prefetch 1, late acks",
    "unprefetched": "Celery, worker_disable_prefetch, late acks",
}
#: A queue for each node. The publisher chooses a queue, weighted by the slots of its node.
BY_NODE = {
    "random": "Celery, a queue a node, at random",
    "rotating": "Celery, a queue a node, in turn",
}
OTHERS = {"rq": "RQ", "dramatiq": "dramatiq", "taskiq": "taskiq"}
NAMES = {**CONTENDERS, **BY_NODE, **OTHERS}


def command(kind: str, node: Node, pool: str) -> list[str]:
    """The command that starts a node's worker. ``pool`` is Celery's worker pool."""
    slots = str(node.slots)
    if kind == "rq":  # a process for each slot
        program = ["rq.cli", "worker-pool", "--num-workers", slots, *node.pools]
    elif kind == "dramatiq":
        processes, threads = (slots, "1") if pool == "prefork" else ("1", slots)
        program = ["dramatiq", "benchmarks.trace_dramatiq:broker", "--processes", processes]
        program += ["--threads", threads, "--queues", *node.pools]
    elif kind == "taskiq":
        processes, threads = (slots, "1") if pool == "prefork" else ("1", slots)
        program = ["taskiq", "worker", "benchmarks.trace_taskiq:broker", "--workers", processes]
        program += ["--max-async-tasks", threads, "--max-threadpool-threads", threads]
    elif kind == "ours":
        pools = [f"--pool={pool}" for pool in node.pools]
        program = ["node_agent", "-A", trace_app.__name__, f"--node-id={node.name}", *pools]
        program += ["-P", pool, f"--concurrency={slots}"]
    else:
        queues = [node.name] if kind in BY_NODE else node.pools
        program = ["celery", "-A", trace_app.__name__, "worker", f"--hostname={node.name}@replay"]
        program += [f"--queues={','.join(queues)}", "-P", pool, f"--concurrency={slots}", "-Ofair"]
    return [sys.executable, "-m", *program]


class Publisher(Protocol):
    """Sends jobs to the workers of one contender."""

    def send(self, number: int, job: Job) -> object:
        """Send a job. The contender chooses the node."""

    def is_ready(self, logs: Path) -> bool:
        """True if all workers take jobs. Their logs are in the directory."""

    def check(self) -> None:
        """All jobs have ended. Raise ``ClickException`` if their slots or records are wrong."""

    def close(self) -> None:
        """Disconnect."""


class _Unchecked:
    """A contender without a consistency check."""

    def check(self) -> None: ...


def publisher(kind: str, broker: str, nodes: Sequence[Node]) -> Publisher:
    """The publisher of a contender."""
    if kind == "rq":
        return RqPublisher(broker, nodes)
    if kind == "dramatiq":
        return DramatiqPublisher(broker, nodes)
    if kind == "taskiq":
        return TaskiqPublisher(broker, nodes)
    return CeleryPublisher(kind, broker, nodes)


class CeleryPublisher:
    """celery_minsched and plain Celery."""

    def __init__(self, kind: str, broker: str, nodes: Sequence[Node]) -> None:
        self.app = trace_app.make_app(broker, kind)
        self._nodes = nodes
        self._destination = _destination(kind, nodes)

    def send(self, number: int, job: Job, payload: str = "") -> None:
        self.app.send_task(
            "replay.work",
            (number, job.work, job.session, payload),
            task_id=str(number),
            ignore_result=True,
            **self._destination(job),
        )

    def is_ready(self, logs: Path) -> bool:
        names = {node.name for node in self._nodes}
        if plugin := getattr(self.app, "minsched", None):
            return names <= {node.node_id for node in plugin.views.nodes() if node.online}
        answers = self.app.control.ping(timeout=0.3, limit=len(names)) or []
        return names <= {name.partition("@")[0] for answer in answers for name in answer}

    def check(self) -> None:
        if plugin := getattr(self.app, "minsched", None):
            wait_for(
                lambda: not any(node.current_jobs for node in plugin.views.nodes()),
                lambda: "slots are taken though all jobs have ended",
            )
            check(plugin.views)

    def close(self) -> None:
        self.app.close()


def _destination(kind: str, nodes: Sequence[Node]) -> Callable[[Job], dict[str, Any]]:
    """A function from a job to the options of its ``send_task``."""
    if kind == "ours":
        return lambda job: {"minsched": {"pool": job.pool, "session_id": job.session}}
    if kind not in BY_NODE:
        return lambda job: {"queue": job.pool}
    names = {pool: _by_slot([n for n in nodes if pool in n.pools]) for pool in _pools(nodes)}
    if kind == "random":
        chance = random.Random(7)
        return lambda job: {"queue": chance.choice(names[job.pool])}
    turns = {pool: itertools.cycle(of_pool) for pool, of_pool in names.items()}
    return lambda job: {"queue": next(turns[job.pool])}


def _by_slot(nodes: Sequence[Node]) -> list[str]:
    """The name of each node once for each of its slots, in mixed order."""
    slots = ((slot / node.slots, node.name) for node in nodes for slot in range(node.slots))
    return [name for _, name in sorted(slots)]


class RqPublisher(_Unchecked):
    """RQ with a queue for each pool."""

    def __init__(self, broker: str, nodes: Sequence[Node]) -> None:
        import rq

        self._redis = redis.Redis.from_url(broker)
        self._queues = {pool: rq.Queue(pool, connection=self._redis) for pool in _pools(nodes)}
        self._slots = sum(node.slots for node in nodes)
        self._workers = rq.Worker

    def send(self, number: int, job: Job) -> None:
        arguments = (number, job.work, job.session)
        self._queues[job.pool].enqueue(replay_task.work, args=arguments, result_ttl=0)

    def is_ready(self, logs: Path) -> bool:
        return self._workers.count(connection=self._redis) >= self._slots

    def close(self) -> None:
        self._redis.close()


class DramatiqPublisher(_Unchecked):
    """dramatiq with a queue for each pool."""

    def __init__(self, broker: str, nodes: Sequence[Node]) -> None:
        from benchmarks import trace_dramatiq

        self._broker = trace_dramatiq.make_broker(broker, _pools(nodes))
        self._work = trace_dramatiq.work
        self._nodes = nodes

    def send(self, number: int, job: Job) -> None:
        message = self._work.message(number, job.work, job.session)
        self._broker.enqueue(message.copy(queue_name=job.pool))

    def is_ready(self, logs: Path) -> bool:
        texts = (path.read_text(errors="replace") for path in logs.glob("*.log"))
        return sum("ready for action" in text for text in texts) >= len(self._nodes)

    def close(self) -> None:
        self._broker.close()


class TaskiqPublisher(_Unchecked):
    """taskiq with a Redis stream for each pool."""

    def __init__(self, broker: str, nodes: Sequence[Node]) -> None:
        from benchmarks import trace_taskiq

        self._broker = trace_taskiq.make_broker(broker, _pools(nodes))
        self._work = trace_taskiq.register(self._broker)
        self._nodes = nodes
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._broker.startup())

    def send(self, number: int, job: Job) -> None:
        kicker = self._work.kicker().with_labels(queue_name=job.pool)
        self._loop.run_until_complete(kicker.kiq(number, job.work, job.session))

    def is_ready(self, logs: Path) -> bool:
        texts = (path.read_text(errors="replace") for path in logs.glob("*.log"))
        return sum("Listening started" in text for text in texts) >= len(self._nodes)

    def close(self) -> None:
        self._loop.run_until_complete(self._broker.shutdown())
        self._loop.close()


def _pools(nodes: Sequence[Node]) -> list[str]:
    return sorted({pool for node in nodes for pool in node.pools})
