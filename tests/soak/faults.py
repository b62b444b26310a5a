"""Faults of workers and Redis, and the time from a node's death to the rescue of its jobs."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import redis
from redis.exceptions import RedisError

from celery_minsched.core.keys import Keys

from ..support.server import Server
from .fleet import Worker

logger = logging.getLogger(__name__)

MOST_AWAY = 3  # workers that may be away at the same time
DOWN = (0.0, 4.0)  # seconds until a dead worker is restarted
REDIS_DOWN = (0.0, 1.5)  # seconds until a dead Redis is restarted


@dataclass
class Rescue:
    """A dead node, and its jobs that are neither placed again nor reported."""

    node_id: str
    since: float
    since_ms: int  # by the server's clock
    jobs: set[str]  # jobs that are not rescued yet
    count: int  # of the jobs at the death
    seconds: list[float] = field(default_factory=list)  # until each rescued job was rescued


class Watch:
    """Records the deaths of nodes, and when their jobs are placed again or reported."""

    def __init__(self, client: redis.Redis, keys: Keys, workers: list[Worker]) -> None:
        self.rescues: list[Rescue] = []
        self._client = client
        self._keys = keys
        self._workers = workers

    def expect(self, node_id: str) -> None:
        """Record the death of a node and its jobs."""
        with contextlib.suppress(RedisError):
            jobs = set(self._client.zrange(self._keys("node_jobs", node_id), 0, -1))
            seconds, micros = self._client.time()
            at_ms = seconds * 1000 + micros // 1000
            self.rescues.append(Rescue(node_id, time.monotonic(), at_ms, jobs, len(jobs)))

    def update(self) -> None:
        """Read the state of the nodes and of the jobs of dead nodes."""
        with contextlib.suppress(RedisError):
            self._update_nodes()
        for rescue in self.rescues:
            if not rescue.jobs:
                continue
            with contextlib.suppress(RedisError):
                for job_id in list(rescue.jobs):
                    if self._is_rescued(rescue, job_id):
                        rescue.jobs.remove(job_id)
                        seconds = time.monotonic() - rescue.since
                        rescue.seconds.append(seconds)
                        logger.info("%s of %s: after %.1f s", job_id, rescue.node_id, seconds)

    def _update_nodes(self) -> None:
        heartbeats = dict(self._client.zrange(self._keys("nodes"), 0, -1, withscores=True))
        for worker in self._workers:
            last = heartbeats.get(worker.name, 0)  # negative for a silent node
            if last < 0 and worker.is_up and not worker.is_absent and not worker.returned:
                logger.warning("%s is declared dead without a fault", worker.name)
                worker.begin_absence("silent")
                worker.returned = time.time() * 1000
            elif worker.returned and last > worker.returned and self._is_online(worker.name):
                worker.end_absence()

    def _is_online(self, node_id: str) -> bool:
        return bool(self._client.hget(self._keys("node_info", node_id), "online") == "true")

    def _is_rescued(self, rescue: Rescue, job_id: str) -> bool:
        status, node_id, dispatched = self._client.hmget(
            self._keys("job", job_id), "status", "node_id", "dispatched_ts"
        )
        if status in ("finished", "failed", "lost"):
            return self._client.zscore(self._keys("lost"), job_id) is None
        is_at_node = status in ("dispatched", "running") and node_id == rescue.node_id
        return not is_at_node or int(dispatched or 0) > rescue.since_ms


class Faults:
    """Causes a random fault every few seconds, and restarts dead workers."""

    pause = (2.0, 4.0)  # seconds between two faults

    def __init__(
        self,
        seed: int,
        workers: list[Worker],
        server: Server,
        node_ttl: float,
        on_death: Callable[[str], None] | None,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.is_over = False
        self._draw = random.Random(f"faults {seed}")
        self._workers = workers
        self._server = server
        self._node_ttl = node_ttl
        self._on_death = on_death or (lambda _: None)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._starting: set[str] = set()
        self._later(self._draw.uniform(*self.pause), self._next)

    def tick(self) -> None:
        """Run the actions that are due. The caller calls it several times a second."""
        for worker in self._workers:
            self._notice_end(worker)
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def end(self) -> None:
        """Cause no more faults. Stopped and dead workers start again."""
        self.is_over = True

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), call))

    def _notice_end(self, worker: Worker) -> None:
        if worker.name in self._starting or worker.process is None or worker.process.poll() is None:
            return
        if worker.process.returncode:
            self.done["died of poison or during its start"] += 1
            logger.info("%s has died", worker.name)
            worker.begin_absence("died")
            self._on_death(worker.name)
        self._start_later(worker)

    def _start_later(self, worker: Worker) -> None:
        self._starting.add(worker.name)

        def start() -> None:
            self._starting.discard(worker.name)
            worker.start()

        self._later(self._draw.uniform(*DOWN), start)

    def _next(self) -> None:
        if self.is_over:
            return
        self._strike()
        self._later(self._draw.uniform(*self.pause), self._next)

    def _strike(self) -> None:
        """Cause one fault."""
        up = [worker for worker in self._workers if worker.is_up]
        fault = self._draw.choice(
            [self._kill, self._kill, self._pause, self._ask_to_stop, self._restart_redis]
        )
        if fault == self._restart_redis:
            fault()
        elif len(up) > len(self._workers) - MOST_AWAY:
            fault(self._draw.choice(up))
        else:
            self._flush_scripts()

    def _note(self, fault: str, name: str = "Redis") -> None:
        logger.info("%s: %s", fault, name)
        self.done[fault] += 1

    def _kill(self, worker: Worker) -> None:
        self._note("kill -9", worker.name)
        self._on_death(worker.name)
        worker.kill()
        self._start_later(worker)

    def _pause(self, worker: Worker) -> None:
        self._note("SIGSTOP, SIGCONT", worker.name)
        self._on_death(worker.name)
        worker.stop()
        # Longer than the TTL: the node is declared dead.
        self._later(self._node_ttl * self._draw.uniform(1.5, 3), worker.resume)

    def _ask_to_stop(self, worker: Worker) -> None:
        self._note("SIGTERM", worker.name)
        worker.ask_to_stop()

    def _restart_redis(self) -> None:
        self._note("Redis killed and restarted")
        self._server.stop(signal.SIGKILL)
        time.sleep(self._draw.uniform(*REDIS_DOWN))
        self._server.start()

    def _flush_scripts(self) -> None:
        self._note("SCRIPT FLUSH")
        with contextlib.suppress(RedisError), self._server.client() as client:
            client.script_flush()
