"""The node's side of its slots: which jobs it holds, asked for on receipt, freed at every ending.

No call to Redis is made in the worker's event loop: a thread, the courier, makes them in order and
makes each again until Redis answers. The courier's answers go back into the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celery_minsched import (
    CompleteTaskRequest,
    MinimalSchedulerService,
    NodeMismatch,
    UnknownJob,
)

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries while Redis is away


class LoopCalls:
    """Runs calls from other threads in the worker's event loop, at once: a pipe wakes the loop."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        os.set_blocking(self._writable, False)

    def register(self, hub: Any) -> None:
        """Listen in this hub; called again each time the worker has connected anew."""
        hub.add_reader(self._readable, self._run)

    def __call__(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        with contextlib.suppress(BlockingIOError):  # 64 kB of wake-ups are unread: it will wake
            os.write(self._writable, b".")

    def _run(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._readable, 4096)
        while self._calls:
            self._calls.popleft()()


class Slots:
    """The jobs that this node holds."""

    def __init__(self, scheduler: MinimalSchedulerService, node_id: str) -> None:
        self.held: set[str] = set()
        self.ended: set[str] = set()  # of those: ended here, and Redis does not know yet
        #: Called in the event loop when a job has ended.
        self.on_end: Callable[[str], None] = lambda job_id: None
        self.in_loop = LoopCalls()
        self._scheduler = scheduler
        self._node_id = node_id
        self._outbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._leaving = threading.Event()
        self._courier: threading.Thread | None = None

    def start(self) -> None:
        """Start the courier; after the worker has forked whatever it forks at its start."""
        self._courier = threading.Thread(target=self._carry, name="slots-courier", daemon=True)
        self._courier.start()

    def stop(self, patience: float = 10.0) -> None:
        """Wait until all endings are told, ``patience`` seconds at most."""
        self._outbox.put(None)
        if self._courier:
            self._courier.join(patience)
        self._leaving.set()

    def claim(self, job_id: str, answer: Callable[[str], None]) -> None:
        """Ask whether to run a job; ``answer("run" | "full" | "drop")`` comes in the event loop."""
        self.held.add(job_id)

        def ask() -> None:
            verdict = self._scheduler.claim_job(job_id, self._node_id)
            self.in_loop(lambda: answer(verdict))

        self._outbox.put(ask)

    def end(self, job_id: str, status: str, reason: str = "") -> None:
        """Free the job's slot. Never blocks; safe from any thread."""
        self.ended.add(job_id)
        self.in_loop(lambda: self.on_end(job_id))
        request = CompleteTaskRequest.model_validate(
            {"job_id": job_id, "node_id": self._node_id, "status": status, "reason": reason[:200]}
        )

        def tell() -> None:
            try:
                self._scheduler.complete_task(request)
            except (NodeMismatch, UnknownJob) as exc:
                logger.warning("%s", exc)
            self.ended.discard(job_id)
            self.held.discard(job_id)

        self._outbox.put(tell)

    def forget(self, job_id: str) -> None:
        """The job is not the node's, or its message went back to the queue and comes again."""
        self.held.discard(job_id)

    def keep_only(self, jobs: set[str]) -> None:
        """Forget what the worker dropped: after a lost connection its messages come again."""
        self.held &= jobs | self.ended

    def _carry(self) -> None:
        while (call := self._outbox.get()) is not None:
            pause = _FIRST_PAUSE
            while True:
                try:
                    call()
                except (RedisError, OperationalError) as exc:
                    if pause == _FIRST_PAUSE:
                        logger.warning(
                            "Redis is away, endings of tasks are kept until it is back: %s", exc
                        )
                    if self._leaving.wait(pause):
                        return
                    pause = min(2 * pause, _LONGEST_PAUSE)
                    continue
                except Exception:
                    logger.exception("the courier could not make a call, and goes on")
                break
            if pause > _FIRST_PAUSE:
                logger.info("Redis is back")
