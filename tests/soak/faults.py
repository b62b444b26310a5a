"""What befalls workers and Redis, and how long it takes until a dead node's jobs are seen to."""

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

MOST_AWAY = 3  # workers at a time: the work goes on
DOWN = (0.0, 4.0)  # seconds until a worker that is gone is started again
REDIS_DOWN = (0.0, 1.5)  # seconds


@dataclass
class Rescue:
    """A dead node, and those of its jobs that nobody has seen to yet."""

    node_id: str
    since: float
    since_ms: int  # by the server's clock
    jobs: set[str]
    count: int
    seconds: list[float] = field(default_factory=list)  # of each job that was seen to


class Watch:
    """Sees which nodes the fleet takes for dead, and when each of their jobs is placed anew, or has
    ended and been told.
    """

    def __init__(self, client: redis.Redis, keys: Keys, workers: list[Worker]) -> None:
        self.rescues: list[Rescue] = []
        self._client = client
        self._keys = keys
        self._workers = workers

    def expect(self, node_id: str) -> None:
        """The node dies now."""
        with contextlib.suppress(RedisError):
            jobs = set(self._client.zrange(self._keys("node_jobs", node_id), 0, -1))
            seconds, micros = self._client.time()
            at_ms = seconds * 1000 + micros // 1000
            self.rescues.append(Rescue(node_id, time.monotonic(), at_ms, jobs, len(jobs)))

    def look(self) -> None:
        """See what has changed."""
        with contextlib.suppress(RedisError):
            self._look_at_nodes()
        for rescue in self.rescues:
            if not rescue.jobs:
                continue
            with contextlib.suppress(RedisError):
                for job_id in list(rescue.jobs):
                    if self._is_seen_to(rescue, job_id):
                        rescue.jobs.remove(job_id)
                        seconds = time.monotonic() - rescue.since
                        rescue.seconds.append(seconds)
                        logger.info("%s of %s: after %.1f s", job_id, rescue.node_id, seconds)

    def _look_at_nodes(self) -> None:
        heard = dict(self._client.zrange(self._keys("nodes"), 0, -1, withscores=True))
        for worker in self._workers:
            last = heard.get(worker.name, 0)  # negative for one that was found silent
            if last < 0 and worker.is_up and not worker.is_absent and not worker.returned:
                logger.warning("%s is taken for dead, and nothing was done to it", worker.name)
                worker.begin_absence("silent")
                worker.returned = time.time() * 1000
            elif worker.returned and last > worker.returned and self._is_online(worker.name):
                worker.end_absence()

    def _is_online(self, node_id: str) -> bool:
        return bool(self._client.hget(self._keys("node_info", node_id), "online") == "true")

    def _is_seen_to(self, rescue: Rescue, job_id: str) -> bool:
        status, node_id, dispatched = self._client.hmget(
            self._keys("job", job_id), "status", "node_id", "dispatched_ts"
        )
        if status in ("finished", "failed", "lost"):
            return self._client.zscore(self._keys("lost"), job_id) is None
        is_there = status in ("dispatched", "running") and node_id == rescue.node_id
        return not is_there or int(dispatched or 0) > rescue.since_ms


class Faults:
    """Brings about a random fault every few seconds, and starts again what is gone."""

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
        """Do what is due; called some times a second."""
        for worker in self._workers:
            self._notice_end(worker)
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def end(self) -> None:
        """No more faults: everything runs again, at once or as soon as it has stopped."""
        self.is_over = True

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._number), call))

    def _notice_end(self, worker: Worker) -> None:
        if worker.name in self._starting or worker.process is None or worker.process.poll() is None:
            return
        if worker.process.returncode:
            self.done["died of poison, or as it started"] += 1
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
        """Bring about one fault."""
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

    def _note(self, what: str, name: str = "Redis") -> None:
        logger.info("%s: %s", what, name)
        self.done[what] += 1

    def _kill(self, worker: Worker) -> None:
        self._note("kill -9", worker.name)
        self._on_death(worker.name)
        worker.kill()
        self._start_later(worker)

    def _pause(self, worker: Worker) -> None:
        self._note("SIGSTOP, SIGCONT", worker.name)
        self._on_death(worker.name)
        worker.stop()
        # Longer than a node may be silent, so that it is taken for dead.
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
