"""The design that celery_minsched replaces: all state in one process, protected by locks.

    python examples/locked_scheduler.py

A read-write lock protects the table of nodes. A mutex protects the table of jobs. Each session has
its own mutex. The scheduler creates a job in two phases: the search needs only the read lock, and
the reservation needs the write lock. docs/migration.md shows the replacement of each call.
``register_node``, ``heartbeat``, ``dispatch`` and ``complete`` are short forms for the benchmark.

This design cannot run in two processes. Its state ends with its process. A slot stays taken until
the program frees it explicitly.
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
MINIMUM_VERSION = "1.0"
PHASE_2_TRIES = 3


class ReadWriteLock:
    """Many readers or one writer. A waiting writer goes before readers that come later."""

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
    """A session: the node of its last job."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    node_id: str = ""
    last_lang_pair: str = ""


class NoNode(Exception):
    """No node has the languages, or all nodes that have them are full or silent."""


class RefusedByPolicy(Exception):
    """The policy refuses the node."""


class LockedScheduler:
    """Nodes, jobs and sessions in dicts of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.nodes: dict[str, Node] = {}
        self._nodes_lock = ReadWriteLock()
        self.jobs: dict[str, Job] = {}
        self._jobs_lock = threading.Lock()
        self.sessions: dict[str, Session] = {}
        self._sessions_lock = threading.Lock()
        self._numbers = itertools.count(1)

    # Nodes register and send heartbeats.

    def handle_node_register(self, message: dict[str, Any]) -> str:
        """Handle the first message of a node. Returns its pool."""
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
        """Register the node and return its pool. Raises :class:`RefusedByPolicy`.

        Nodes with the same languages are one pool.
        """
        if version < MINIMUM_VERSION:
            raise RefusedByPolicy(
                f"{node_id} has version {version}, the minimum is {MINIMUM_VERSION}"
            )
        pool = "-".join(sorted(languages))
        description = (name, version, platform, hardware)
        capabilities = (list(models), list(services), list(features), list(languages))
        node = Node(
            node_id, *description, *capabilities, max_jobs, pool, last_heartbeat=self._clock()
        )
        with self._nodes_lock.write():
            if node_id in self.nodes:  # the node connects again
                node.current_jobs = self.nodes[node_id].current_jobs
            self.nodes[node_id] = node
        return pool

    def handle_node_heartbeat(self, message: dict[str, Any]) -> bool:
        """Handle the heartbeat of a node. Returns false if the node must register first."""
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
        """Record the load. This is a writer, so no dispatch runs at the same time."""
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

    # A job is created in two phases.

    def create_job(
        self,
        session_id: str,
        src_lang: str,
        tgt_lang: str,
        preferred_node: str = "",
        **payload: Any,
    ) -> Job:
        """Find a node for an utterance and reserve one of its slots. Raises :class:`NoNode`.

        The payload has the other fields of the message: utterance, dialect, features, audio,
        tenant, trace id and so on.
        """
        with self._sessions_lock:
            session = self.sessions.setdefault(session_id, Session())
        with session.lock:  # the utterances of a session run one after the other
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
        """The nodes that can run the job, best first. Holds the read lock and reads every node.

        Raises :class:`NoNode` if no node has the languages.
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
            raise NoNode(f"no node has the languages {src_lang} and {tgt_lang}")
        return [node_id for *_, node_id in sorted(free)]

    def create_job_with_phase2_lock(self, candidates: Sequence[str]) -> str:
        """Take a slot of the first candidate with a free slot. Holds the write lock.

        Returns "" if no candidate has a free slot, because the state has changed since phase 1.
        """
        with self._nodes_lock.write():
            for node_id in candidates:
                node = self.nodes.get(node_id)
                if node is not None and node.current_jobs < node.max_jobs:
                    node.current_jobs += 1
                    return node_id
        return ""

    # A job ends. Each handler sets the status and frees the slot explicitly.

    def handle_job_result(self, job_id: str) -> None:
        """Handle a result from the node."""
        job = self._set_status(job_id, "finished")
        self._free_slot(job.node_id)

    def handle_job_error(self, job_id: str) -> None:
        """Handle an error from the node."""
        job = self._set_status(job_id, "failed")
        self._free_slot(job.node_id)

    def handle_job_timeout(self, job_id: str) -> None:
        """Handle a job without an answer in time. A late result frees the slot a second time."""
        job = self._set_status(job_id, "failed")
        self._free_slot(job.node_id)

    def remove_silent_nodes(self) -> list[str]:
        """Remove silent nodes. Their jobs stay "dispatched" for ever."""
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

    # Short forms for the benchmark.

    def register_node(self, node_id: str, max_jobs: int, languages: Sequence[str]) -> str:
        """Register a node with default properties. Returns its pool."""
        return self.register_node_with_policy(
            node_id, node_id, "1.0", "linux", {}, [], [], [], languages, max_jobs
        )

    def heartbeat(self, node_id: str, cpu: float = 0, gpu: float = 0, mem: float = 0) -> bool:
        """Send a heartbeat. Returns false if the node must register first."""
        return self.update_node_heartbeat(node_id, cpu, gpu, mem)

    def dispatch(self, session_id: str, src_lang: str, tgt_lang: str) -> tuple[str, str]:
        """Create a job. Returns the ids of the job and its node. Raises :class:`NoNode`."""
        job = self.create_job(session_id, src_lang, tgt_lang)
        return job.job_id, job.node_id

    def complete(self, job_id: str) -> None:
        """Finish the job."""
        self.handle_job_result(job_id)


def main() -> None:
    """Run three nodes and four threads that send 200 utterances."""
    scheduler = LockedScheduler()
    for node_id, max_jobs in (("gpu-1", 4), ("gpu-2", 2), ("cpu-1", 1)):
        scheduler.register_node(node_id, max_jobs, ["zh", "en"])
        scheduler.heartbeat(node_id, cpu=20)

    def speak(number: int) -> str:
        job_id, node_id = scheduler.dispatch(f"u{number}", "zh", "en")
        scheduler.complete(job_id)
        return node_id

    with ThreadPoolExecutor(4) as threads:
        node_ids = list(threads.map(speak, range(200)))
    for node in scheduler.nodes.values():
        print(
            f"{node.node_id}: {node_ids.count(node.node_id)} jobs, {node.current_jobs} slots taken"
        )


if __name__ == "__main__":
    main()
