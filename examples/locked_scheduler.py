"""The design that celery_minsched replaces: all state in one process, behind locks.

    python examples/locked_scheduler.py

A table of nodes behind a read-write lock, a table of jobs behind a mutex, and a mutex for each
session. It is small, and it is meant well: a job is created in two phases, so that the search goes
on under the read lock and only the reservation needs the write lock. docs/migration.md goes from
each of its calls to what takes its place. ``register_node``, ``heartbeat``, ``dispatch`` and
``complete`` are the same in short words, for the benchmark.

What it cannot do: run in two processes, outlive its own, or free a slot that nobody frees by hand.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

NODE_TTL = 8.0  # seconds
LEAST_VERSION = "1.0"
PHASE_2_TRIES = 3


class ReadWriteLock:
    """Many readers, or one writer. Who waits to write goes before those who come to read later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._writers_waiting = 0
        self._is_writing = False

    @contextmanager
    def read(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_writing and not self._writers_waiting)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def write(self) -> Iterator[None]:
        with self._changed:
            self._writers_waiting += 1
            self._changed.wait_for(lambda: not self._is_writing and not self._readers)
            self._writers_waiting -= 1
            self._is_writing = True
        try:
            yield
        finally:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()


@dataclass
class Node:
    """A row of the node table."""

    node_id: str
    name: str
    version: str
    platform: str
    hardware: dict[str, Any]
    models: list[str]
    services: list[str]
    features: list[str]
    languages: list[str]
    max_jobs: int
    pool: str
    current_jobs: int = 0
    cpu: float = 0.0
    gpu: float = 0.0
    mem: float = 0.0
    running_jobs: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    last_heartbeat: float = 0.0

    @property
    def load(self) -> tuple[float, float]:
        return self.current_jobs / self.max_jobs, (self.cpu + self.gpu + self.mem) / 3


@dataclass
class Job:
    """A row of the job table."""

    job_id: str
    node_id: str
    session_id: str
    src_lang: str
    tgt_lang: str
    payload: dict[str, Any]
    status: str = "dispatched"


@dataclass
class Session:
    """What is remembered of a session: where its last job went."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    node_id: str = ""
    last_lang_pair: str = ""


class NoNode(Exception):
    """No node speaks the languages, or all that do are full or silent."""


class RefusedByPolicy(Exception):
    """The node may not join."""


class LockedScheduler:
    """Nodes, jobs and sessions, in dicts of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.nodes: dict[str, Node] = {}
        self._nodes_lock = ReadWriteLock()
        self.jobs: dict[str, Job] = {}
        self._jobs_lock = threading.Lock()
        self.sessions: dict[str, Session] = {}
        self._sessions_lock = threading.Lock()
        self._numbers = itertools.count(1)

    # Nodes join and tell of themselves.

    def handle_node_register(self, message: dict[str, Any]) -> str:
        """A node's first message; the pool that it is in from now on."""
        return self.register_node_with_policy(**message)

    def register_node_with_policy(
        self,
        node_id: str,
        name: str,
        version: str,
        platform: str,
        hardware: dict[str, Any],
        models: Sequence[str],
        services: Sequence[str],
        features: Sequence[str],
        languages: Sequence[str],
        max_jobs: int = 4,
    ) -> str:
        """Let the node in, unless the policy is against it, and compute its pool.

        Nodes that speak the same languages are one pool. Raises :class:`RefusedByPolicy`.
        """
        if version < LEAST_VERSION:
            raise RefusedByPolicy(f"{node_id} has version {version}; {LEAST_VERSION} is the least")
        pool = "-".join(sorted(languages))
        described = (name, version, platform, hardware)
        offered = (list(models), list(services), list(features), list(languages))
        node = Node(node_id, *described, *offered, max_jobs, pool, last_heartbeat=self._clock())
        with self._nodes_lock.write():
            if node_id in self.nodes:  # it connects again
                node.current_jobs = self.nodes[node_id].current_jobs
            self.nodes[node_id] = node
        return pool

    def handle_node_heartbeat(self, message: dict[str, Any]) -> bool:
        """A node's message every second; false where it has to register first."""
        return self.update_node_heartbeat(**message)

    def update_node_heartbeat(
        self,
        node_id: str,
        cpu: float,
        gpu: float,
        mem: float,
        running_jobs: Sequence[str] = (),
        models: Sequence[str] = (),
        metrics: dict[str, Any] | None = None,
    ) -> bool:
        """Note the load. It stops every dispatch for as long as it takes: it is a writer."""
        with self._nodes_lock.write():
            node = self.nodes.get(node_id)
            if node is None:
                return False
            node.cpu, node.gpu, node.mem = cpu, gpu, mem
            node.running_jobs = list(running_jobs)
            node.models = list(models) or node.models
            node.metrics = metrics or {}
            node.last_heartbeat = self._clock()
        return True

    # Jobs are created in two phases.

    def create_job(
        self,
        session_id: str,
        src_lang: str,
        tgt_lang: str,
        preferred_node: str = "",
        **payload: Any,
    ) -> Job:
        """Find a node for an utterance and reserve one of its slots. Raises :class:`NoNode`.

        The payload is what the node gets beside: utterance, dialect, features, audio, tenant,
        trace id and so on.
        """
        with self._sessions_lock:
            session = self.sessions.setdefault(session_id, Session())
        with session.lock:  # one utterance of a session after the other
            for _ in range(PHASE_2_TRIES):
                wanted = preferred_node or session.node_id
                candidates = self.create_job_phase1(src_lang, tgt_lang, wanted)
                node_id = self.create_job_with_phase2_lock(candidates)
                if node_id:
                    break
            else:
                raise NoNode(f"all nodes for {src_lang} to {tgt_lang} are full")
            session.node_id, session.last_lang_pair = node_id, f"{src_lang}:{tgt_lang}"
        job_id = f"{session_id}:{next(self._numbers)}"
        job = Job(job_id, node_id, session_id, src_lang, tgt_lang, payload)
        with self._jobs_lock:
            self.jobs[job_id] = job
        return job

    def create_job_phase1(self, src_lang: str, tgt_lang: str, wanted: str = "") -> list[str]:
        """Under the read lock: the nodes that could do it, best first. It looks at every node.

        Raises :class:`NoNode` where none speaks the languages.
        """
        alive = self._clock() - NODE_TTL
        with self._nodes_lock.read():
            able = [
                node
                for node in self.nodes.values()
                if src_lang in node.languages and tgt_lang in node.languages
            ]
            free = [
                (node.node_id != wanted, *node.load, node.node_id)
                for node in able
                if node.current_jobs < node.max_jobs and node.last_heartbeat >= alive
            ]
        if not able:
            raise NoNode(f"no node speaks {src_lang} and {tgt_lang}")
        return [node_id for *_, node_id in sorted(free)]

    def create_job_with_phase2_lock(self, candidates: Sequence[str]) -> str:
        """Under the write lock: the first that still has a slot, which is taken. "" for none: what
        phase 1 saw has changed meanwhile.
        """
        with self._nodes_lock.write():
            for node_id in candidates:
                node = self.nodes.get(node_id)
                if node is not None and node.current_jobs < node.max_jobs:
                    node.current_jobs += 1
                    return node_id
        return ""

    # Jobs end. Whoever sees an end frees the slot and sets the status by hand.

    def handle_job_result(self, job_id: str) -> None:
        """The node sent a result."""
        job = self._set_status(job_id, "finished")
        self._free_slot(job.node_id)

    def handle_job_error(self, job_id: str) -> None:
        """The node sent an error."""
        job = self._set_status(job_id, "failed")
        self._free_slot(job.node_id)

    def handle_job_timeout(self, job_id: str) -> None:
        """Nothing came in time. Should the result come after all, the slot is freed twice."""
        job = self._set_status(job_id, "failed")
        self._free_slot(job.node_id)

    def remove_silent_nodes(self) -> list[str]:
        """Called now and then. The jobs of these nodes stay "dispatched" for ever."""
        alive = self._clock() - NODE_TTL
        with self._nodes_lock.write():
            silent = [node.node_id for node in self.nodes.values() if node.last_heartbeat < alive]
            for node_id in silent:
                del self.nodes[node_id]
        return silent

    def _set_status(self, job_id: str, status: str) -> Job:
        with self._jobs_lock:
            job = self.jobs[job_id]
            job.status = status
        return job

    def _free_slot(self, node_id: str) -> None:
        with self._nodes_lock.write():
            if node_id in self.nodes:
                self.nodes[node_id].current_jobs -= 1

    # The same in short words.

    def register_node(self, node_id: str, max_jobs: int, languages: Sequence[str]) -> str:
        """The pool of a node of which nothing else is told."""
        return self.register_node_with_policy(
            node_id, node_id, "1.0", "linux", {}, [], [], [], languages, max_jobs
        )

    def heartbeat(self, node_id: str, cpu: float = 0, gpu: float = 0, mem: float = 0) -> bool:
        """False where the node has to register first."""
        return self.update_node_heartbeat(node_id, cpu, gpu, mem)

    def dispatch(self, session_id: str, src_lang: str, tgt_lang: str) -> tuple[str, str]:
        """The job and its node. Raises :class:`NoNode`."""
        job = self.create_job(session_id, src_lang, tgt_lang)
        return job.job_id, job.node_id

    def complete(self, job_id: str) -> None:
        """The job is finished."""
        self.handle_job_result(job_id)


def main() -> None:
    """Three nodes, and four threads that send 200 utterances."""
    scheduler = LockedScheduler()
    for node_id, max_jobs in (("gpu-1", 4), ("gpu-2", 2), ("cpu-1", 1)):
        scheduler.register_node(node_id, max_jobs, ["zh", "en"])
        scheduler.heartbeat(node_id, cpu=20)

    def speak(number: int) -> str:
        job_id, node_id = scheduler.dispatch(f"u{number}", "zh", "en")
        scheduler.complete(job_id)
        return node_id

    with ThreadPoolExecutor(4) as threads:
        went = list(threads.map(speak, range(200)))
    for node in scheduler.nodes.values():
        print(f"{node.node_id}: {went.count(node.node_id)} jobs, {node.current_jobs} slots taken")


if __name__ == "__main__":
    main()
