"""Shared parts of the scale benchmarks: sizes, rows, and a fleet that measures its script runs.

The nodes have no processes. A measured step calls methods of the service, so their paging counts. A
step that only fills Redis sends the same commands in pipelines.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import redis

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    HeartbeatRequest,
    HeartbeatResponse,
    MinimalSchedulerService,
    RegisterNodeRequest,
    SchedulerError,
    Settings,
)
from celery_minsched.core import lua_source
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.queries import Views
from tests.support.server import Server

T = TypeVar("T")

LIMIT_MS = 20.0  # limit of one script run
DAY = 86400.0  # seconds
LOGGED = 500  # µs. SLOWLOG keeps longer runs
PAGE = 100  # calls or jobs in one round trip
MIN_PAUSE = 0.01  # seconds between two heartbeats of a node, even if it is due earlier
#: Commands of the measurement itself.
_OWN = ("CONFIG", "INFO", "SLOWLOG", "SCRIPT")
INSTANCE = "one"  # the instance of each node
#: A placeholder for the node's id in a command that is sent for many nodes.
TEMPLATE = "node-of-the-template"


@dataclass(frozen=True)
class Sizes:
    """The number of each kind of object."""

    nodes: int
    waiting: int  # jobs in line
    lines: int
    held: int  # jobs of one node
    batch: int  # jobs of one call
    message: int  # bytes of a large message
    few: int  # lines or nodes, if a smaller number is enough


FULL = Sizes(50_000, 100_000, 50_000, 4000, 5000, 1_000_000, 5000)
SMALL = Sizes(300, 400, 400, 150, 250, 20_000, 300)


@dataclass(frozen=True)
class Row:
    """The times of a step, and its outcome."""

    path: str
    size: str
    mean_ms: float
    longest_ms: float
    script: str
    outcome: str = ""
    is_right: bool = True

    @property
    def cells(self) -> list[str]:
        """The cells of a table row."""
        limit = LOGGED / 1000
        longest = f"{self.longest_ms:.1f}" if self.longest_ms > limit else f"< {limit}"
        return [
            *(self.path, self.size, f"{self.mean_ms:.2f}" if self.mean_ms else ""),
            *(longest, self.script),
            self.outcome if self.is_right else f"WRONG: {self.outcome}",
        ]


@dataclass
class Run:
    """The script runs of a step, after its end."""

    calls: int = 0
    mean_ms: float = 0.0
    longest_ms: float = 0.0
    script: str = ""
    seconds: float = 0.0

    def row(self, path: str, size: str, outcome: str = "", is_right: bool = True) -> Row:
        return Row(path, size, self.mean_ms, self.longest_ms, self.script, outcome, is_right)


class _Recorded(Exception):
    """A recorded script call."""

    def __init__(self, command: Sequence[Any]) -> None:
        super().__init__()
        self.command = command


class _Recorder(redis.Redis):
    """A client that records the call of one script instead of sending it."""

    recorded_script: str = ""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == "EVALSHA" and args[1] == lua_source.sha(self.recorded_script):
            raise _Recorded(args)
        return super().execute_command(*args, **options)


class Fleet:
    """A server, nodes without processes, and a service."""

    def __init__(self, *options: str, **settings: Any) -> None:
        logged = ("--slowlog-log-slower-than", str(LOGGED), "--slowlog-max-len", "100000")
        self.server = Server(*logged, *options)
        assert self.server.process
        _raise_priority(self.server.process.pid, 2)
        defaults = {"node_ttl": DAY, "lease": DAY, "history_ttl": 2 * DAY, "max_waiting": 10**6}
        self.settings = Settings(**(defaults | settings))
        socket = self.server.socket_path
        self.client = redis.Redis(unix_socket_path=socket, decode_responses=True)
        self._recorder = _Recorder(unix_socket_path=socket, decode_responses=True)
        self.service = MinimalSchedulerService(self.client, self.settings)
        self._recording = MinimalSchedulerService(self._recorder, self.settings)
        self.keys = self.service.keys
        self._raw = redis.Redis(unix_socket_path=socket)  # decodes no answers, like the commands
        self.views = Views(self._raw, self.keys, self.settings)
        self._names = {lua_source.sha(name): name for name in lua_source.names()}
        for name in lua_source.names():  # so that a call does not send the script
            self.client.script_load(lua_source.source(name))

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()
        self._recorder.close()
        self._raw.close()
        self.server.close()

    # Nodes

    def add_node(
        self,
        node_id: str,
        slots: int = 8,
        pools: Sequence[Any] = ("p",),
        capabilities: Sequence[str] = (),
    ) -> None:
        """Register one node."""
        self.service.register_node(registration(node_id, slots, pools, capabilities))

    def add_nodes(
        self,
        node_ids: Iterable[str],
        slots: int = 8,
        pools: Sequence[Any] = ("p",),
        capabilities: Sequence[str] = (),
    ) -> None:
        """Register nodes that differ only in their ids."""
        request = registration(TEMPLATE, slots, pools, capabilities)
        command = self.recorded("register_node", lambda service: service.register_node(request))
        self._send_for_each(node_ids, command)

    def beat_all(self, node_ids: Iterable[str]) -> None:
        """Send a heartbeat of each node, without its jobs."""
        request = HeartbeatRequest(node_id=TEMPLATE)
        command = self.recorded("heartbeat", lambda service: service.heartbeat(request))
        self._send_for_each(node_ids, command)

    def recorded(
        self, script: str, call: Callable[[MinimalSchedulerService], object]
    ) -> Sequence[Any]:
        """The command with which the service calls the script. It is not sent."""
        self._recorder.recorded_script = script
        try:
            call(self._recording)
        except _Recorded as recorded:
            return recorded.command
        raise AssertionError(f"{script} was not called")

    def _send_for_each(self, node_ids: Iterable[str], command: Sequence[Any]) -> None:
        for page in pages(node_ids):
            with self.client.pipeline(transaction=False) as pipe:
                for node_id in page:
                    pipe.execute_command(
                        *(node_id if part == TEMPLATE else part for part in command)
                    )
                pipe.execute()

    def beat(self, node_id: str, **fields: Any) -> HeartbeatResponse:
        """Send one heartbeat."""
        return self.service.heartbeat(HeartbeatRequest(node_id=node_id, **fields))

    def beat_for(self, seconds: float, node_id: str) -> None:
        """Send heartbeats of an idle node for some seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.beat(node_id, jobs=[])
            time.sleep(0.05)

    def beat_while_due(self, node_id: str, most: int = 100_000, **fields: Any) -> int:
        """Send heartbeats while the next is due at once. Returns their number."""
        for number in range(1, most + 1):
            if self.beat(node_id, **fields).next_due_ms != 0:
                return number
        return most

    def held(self, node_id: str) -> list[str]:
        """The jobs at a node."""
        job_ids = self.client.zrange(self.keys("node_jobs", node_id), 0, -1)
        return [str(job_id) for job_id in job_ids]

    def taken(self, node_id: str) -> int:
        """The number of taken slots of a node."""
        return int(self.client.zcard(self.keys("node_jobs", node_id)))

    # Jobs

    def send(self, count: int, message: int = 0, **demand: Any) -> list[DispatchResponse]:
        """Dispatch equal jobs with messages of a size. The jobs may wait."""
        request = ask(**demand)
        return self.send_each((request for _ in range(count)), message)

    def send_each(
        self, requests: Iterable[DispatchRequest], message: int = 0
    ) -> list[DispatchResponse]:
        """Dispatch jobs with messages of a size."""
        parts = message_of(message)
        answers = []
        for page in pages(requests):
            answers += self.service.dispatch_tasks([(request, parts) for request in page])
        return placed(answers)

    def complete(self, job_id: str, node_id: str) -> None:
        """End a job."""
        self.service.complete_task(
            CompleteTaskRequest(job_id=job_id, node_id=node_id, status="finished")
        )

    def waiting(self) -> int:
        """The number of jobs in all lines."""
        lines = [str(line) for line, _ in self.client.hscan_iter(self.keys("lines"), count=1000)]
        total = 0
        for page in pages(lines):
            with self.client.pipeline(transaction=False) as pipe:
                for line in page:
                    pipe.zcard(self.keys("waiting", line))
                total += sum(pipe.execute())
        return total

    def park(self, node_id: str, job_ids: Iterable[str]) -> None:
        """Move messages from the node's queue to the jobs' lists, as a rescuer does.

        The jobs are in the order of their dispatch.
        """
        queue = self.keys("node_queue", node_id)
        for page in pages(job_ids):
            with self.client.pipeline(transaction=False) as pipe:
                for job_id in page:
                    pipe.lmove(queue, self.keys("job_queue", job_id), "RIGHT", "LEFT")
                pipe.execute()

    # Measurement

    @contextlib.contextmanager
    def measured(self) -> Iterator[Run]:
        """Measure the script runs inside the block."""
        run = Run()
        self.client.config_resetstat()
        self.client.slowlog_reset()
        began = time.perf_counter()
        yield run
        run.seconds = time.perf_counter() - began
        stats = self.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        run.calls = stats["calls"]
        run.mean_ms = stats["usec"] / max(run.calls, 1) / 1000
        for entry in self.client.slowlog_get(100_000):
            command = entry["command"]
            words = command.decode(errors="replace") if isinstance(command, bytes) else command
            name, _, rest = words.partition(" ")
            if name.upper() not in _OWN and entry["duration"] / 1000 > run.longest_ms:
                run.longest_ms = entry["duration"] / 1000
                run.script = self._names.get(rest.partition(" ")[0], name)


def _raise_priority(pid: int, priority: int) -> None:
    """Raise the priority of a process, if this process has the permission.

    A pause of a server counts as time of its script.
    """
    if hasattr(os, "sched_setscheduler"):  # Linux
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))


@contextlib.contextmanager
def running_first() -> Iterator[None]:
    """Raise the priority of this process and of its child processes."""
    _raise_priority(os.getpid(), 1)
    try:
        yield
    finally:
        if hasattr(os, "sched_setscheduler"):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def used_cpu(client: redis.Redis) -> float:
    """Processor time of the server in seconds."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def pages(items: Iterable[T], size: int = PAGE) -> Iterator[list[T]]:
    """The items in pages."""
    rest = iter(items)
    while page := list(islice(rest, size)):
        yield page


def names(prefix: str, count: int) -> list[str]:
    """Ids with a number."""
    return [f"{prefix}{number}" for number in range(count)]


def registration(
    node_id: str, slots: int, pools: Sequence[Any], capabilities: Sequence[str]
) -> RegisterNodeRequest:
    return RegisterNodeRequest(
        node_id=node_id,
        max_jobs=slots,
        pools_json=json.dumps(list(pools)),
        cap_json=json.dumps(list(capabilities)),
        instance=INSTANCE,
    )


def ask(**demand: Any) -> DispatchRequest:
    """A demand that may wait. The default pool is ``p``."""
    pool = {} if "src_lang" in demand else {"pool": "p"}
    return DispatchRequest(**(pool | {"when_full": "wait"} | demand))


def message_of(size: int = 0) -> tuple[str, str]:
    """The two parts of a message around the job's id, with a body of a size."""
    return '{"job_id": ', f', "text": "{"x" * size}"}}'


def placed(answers: Iterable[DispatchResponse | SchedulerError]) -> list[DispatchResponse]:
    """The answers. Raises the first error among them."""
    checked = []
    for answer in answers:
        if isinstance(answer, SchedulerError):
            raise answer
        checked.append(answer)
    return checked


def at_nodes(answers: Iterable[DispatchResponse]) -> int:
    """The number of jobs that got a slot at once."""
    return sum(bool(answer.node_id) for answer in answers)
