"""Real nodes as processes. They run the tasks of :mod:`tests.support.app`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from celery import Celery
from celery.result import AsyncResult
from celery.states import READY_STATES

from celery_minsched import MinSched
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.models import JobView, NodeView
from celery_minsched.monitor.queries import Views

from .forked import NodeProcess
from .server import Server

ROOT = Path(__file__).resolve().parents[2]

#: Settings of the scheduler by which a dead node is found in two seconds.
FAST = {"node_ttl": 2.0, "heartbeat_interval": 0.3, "lease": 5.0}


def as_conf(**settings: float) -> dict[str, float]:
    """Settings of the scheduler as Celery configuration."""
    return {f"minsched_{name}": value for name, value in settings.items()}


def app_environment(
    broker: str, celery: Mapping[str, object] | None = None, /, **settings: float
) -> dict[str, str]:
    """The environment of a program that runs tests/support/app.py.

    ``celery`` is Celery configuration, ``settings`` are settings of the scheduler.
    """
    return {
        **os.environ,
        "MINSCHED_TEST_BROKER": broker,
        "MINSCHED_TEST_CONF": json.dumps({**as_conf(**settings), **(celery or {})}),
        "PYTHONPATH": str(ROOT),
    }


def stored(result: AsyncResult, patience: float = 60.0) -> Any:
    """The result of a task. Redis may be away for a moment."""
    wait_for(lambda: result.state in READY_STATES, f"the result of {result.id}", patience)
    assert result.state == "SUCCESS", result.result
    return result.result


def wait_for(
    condition: Callable[[], Any], goal: str | Callable[[], str] = "", patience: float = 60.0
) -> Any:
    """Wait until ``condition()`` is true. Returns its value. Fails after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not (answer := condition()):
        if time.monotonic() > deadline:
            name = goal() if callable(goal) else goal
            raise AssertionError(f"waited {patience} s in vain for {name or condition}")
        time.sleep(0.02)
    return answer


class Fleet:
    """Nodes of one application on one server.

    ``app`` is the application's module. The nodes connect to ``broker``, this process connects to
    ``server``. ``celery`` and ``settings`` are as for ``app_environment``.
    """

    def __init__(
        self,
        server: Server,
        app: str = "tests.support.app",
        *,
        broker: str = "",
        celery: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
        **settings: float,
    ) -> None:
        self.server = server
        self.app_name = app
        self.environment = {
            **app_environment(broker or server.url, celery, **settings),
            **(environment or {}),
        }
        self.processes: dict[str, NodeProcess | subprocess.Popen[bytes]] = {}
        self.logs = tempfile.TemporaryDirectory(prefix="minsched-logs-")
        self.app = make_app(server.url, **as_conf(**settings))

    @property
    def plugin(self) -> MinSched:
        plugin: MinSched = self.app.minsched
        return plugin

    @property
    def views(self) -> Views:
        return self.plugin.views

    def start(self, node_id: str, *options: str, slots: int = 2, pool: str = "asr") -> None:
        """Start a node. Its output goes to its own log."""
        args = [
            *("-A", self.app_name, "--node-id", node_id, "--slots", str(slots), "--pool", pool),
            *("--loglevel", "INFO", "--without-mingle", *options),
        ]
        self.processes[node_id] = NodeProcess(args, self.environment, self.log_path(node_id))

    def start_ready(self, node_id: str, *options: str, slots: int = 2, pool: str = "asr") -> None:
        """Start a node and wait until it takes jobs."""
        self.start(node_id, *options, slots=slots, pool=pool)
        self.wait_online(node_id)

    def wait_online(self, *node_ids: str) -> None:
        for node_id in node_ids:
            wait_for(
                lambda node_id=node_id: (node := self.node(node_id)) and node.online,
                lambda node_id=node_id: f"{node_id} to come online:\n{self.log_tail(node_id)}",  # type: ignore[misc]
            )

    def send(self, task: str, *args: object, **options: Any) -> AsyncResult:
        """Call a task by name. Its demand is pool "asr", and ``minsched`` adds to it."""
        demand = {"pool": "asr", **options.pop("minsched", {})}
        return self.app.send_task(f"{self.app_name}.{task}", args, minsched=demand, **options)

    def node(self, node_id: str) -> NodeView | None:
        return next((node for node in self.views.nodes() if node.node_id == node_id), None)

    def job(self, task_id: str) -> JobView | None:
        return self.plugin.find_job(task_id)

    def wait_idle(self, patience: float = 60.0) -> None:
        """Wait until each slot is free."""
        wait_for(
            lambda: all(node.current_jobs == 0 for node in self.views.nodes()),
            "all slots to be free",
            patience,
        )

    def log_path(self, node_id: str) -> Path:
        return Path(self.logs.name) / f"{node_id}.log"

    def log(self, node_id: str) -> str:
        path = self.log_path(node_id)
        return path.read_text(errors="replace") if path.exists() else ""

    def log_tail(self, node_id: str, lines: int = 15) -> str:
        """The last lines of the node's log."""
        return "\n".join(self.log(node_id).splitlines()[-lines:])

    def deafen(self, node_id: str) -> None:
        """Make the node read no more messages: they stay in its queue. After some seconds the
        node is stuck.
        """
        worker = [f"celery@{node_id}"]
        assert self.app.control.broadcast("deafen", destination=worker, reply=True, timeout=60)
        addresses = self.addresses(psutil.Process(self.processes[node_id].pid))
        with self.server.client() as client:
            wait_for(
                lambda: (
                    not any(  # its last BLMOVE may last for a second
                        (c["cmd"], c["addr"] in addresses, "b" in c["flags"])
                        == ("blmove", True, True)
                        for c in client.client_list()
                    )
                ),
                f"{node_id} to stop listening",
            )

    def cut(self, node_id: str) -> None:
        """Break all connections of the node, but none of this process."""
        agent = psutil.Process(self.processes[node_id].pid)
        with self.server.client() as client:
            for process in (agent, *agent.children(recursive=True)):
                for address in self.addresses(process):
                    client.client_kill_filter(addr=address)

    @staticmethod
    def addresses(process: psutil.Process) -> set[str]:
        """The local addresses of the process's TCP connections."""
        return {
            f"{connection.laddr.ip}:{connection.laddr.port}"
            for connection in process.net_connections("tcp")
        }

    def control(self, node_id: str, command: str, **arguments: object) -> None:
        """Run a remote control command of tests/support/hangs.py or of Celery at the node."""
        destination = [f"celery@{node_id}"]
        wait_for(lambda: self.app.control.ping(destination=destination), f"{node_id} to hear")
        self.app.control.broadcast(command, arguments=arguments, destination=destination)

    def kill(self, node_id: str, signum: int) -> None:
        self.processes[node_id].send_signal(signum)

    def kill_all(self, node_id: str, signum: int) -> None:
        """Send a signal to the node's process group: the agent, its children and its pulse."""
        os.killpg(self.processes[node_id].pid, signum)

    def destroy(self, node_id: str) -> None:
        """Kill the whole process group with SIGKILL. Returns when all processes are dead."""
        family = psutil.Process(self.processes[node_id].pid).children(recursive=True)
        self.kill_all(node_id, signal.SIGKILL)
        self.processes[node_id].wait()
        psutil.wait_procs(family)

    def stop(self, node_id: str, signum: int = signal.SIGTERM, patience: float = 60.0) -> int:
        """Send a signal to a node and wait for its end. Returns the exit code."""
        self.kill(node_id, signum)
        return self.processes[node_id].wait(patience)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # The garbage collection of a result must not call a server that has ended.
        self.app.backend.result_consumer.subscribed_to.clear()
        self.app.close()
        self.logs.cleanup()


@contextmanager
def checked(fleet: Fleet) -> Iterator[Fleet]:
    """Context manager: at the end all slots are free and check finds nothing."""
    try:
        yield fleet
        fleet.wait_idle()
        assert Checker(fleet.views).check() == []
    finally:
        fleet.close()


def make_app(url: str, **conf: object) -> Celery:
    """A new application for the test process. It calls tasks of tests/support/app.py by name."""
    backend = f"tests.support.results:PolledBackend+{url}" if url.startswith("redis:") else url
    app = Celery("tests", broker=url, backend=backend, set_as_current=False)
    app.conf.update(task_publish_retry_policy={"max_retries": 1}, **conf)
    MinSched(app)
    return app
