"""Faults of nodes, the network and Redis. Each lasting fault is undone after a while."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psutil
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ..soak.faults import MOST_AWAY, Faults
from ..soak.fleet import Worker
from ..support.proxy import Proxy
from ..support.server import Server
from .fleet import Node

DURATION = (0.5, 8.0)  # seconds of most faults: some exceed the TTL
STARVED = 20.0  # seconds at the lowest CPU priority
#: Options of a client that must not block if Redis is paused.
IMPATIENT: dict[str, Any] = {"socket_timeout": 1.0, "retry": Retry(NoBackoff(), 0)}


class ChaosFaults(Faults):
    """Causes a random fault every two seconds, and restarts dead nodes."""

    pause = (1.0, 3.0)  # seconds between two faults

    def __init__(self, seed: int, nodes: list[Node], server: Server, node_ttl: float) -> None:
        super().__init__(seed, list(nodes), server, node_ttl, on_death=None)
        #: By node: the times at which processes of its pool were killed.
        self.killed_children: dict[str, list[float]] = defaultdict(list)
        #: Sentences about nodes that ended without a fault.
        self.ended_alone: list[str] = []
        self._nodes = nodes
        self._of_node: list[Callable[[Node], None]] = [
            *(self._kill, self._pause, self._ask_to_stop, self._ask_to_stop_now),
            *(self._hang, self._starve, self._stop_main, self._stop_pulse, self._kill_pulse),
            *(self._stop_child, self._kill_child),
        ]
        self._of_link: list[Callable[[str, Proxy], None]] = [
            *(self._delay, self._hold, self._hold_some, self._cut, self._cut_some),
            *(self._silence_some, self._silence_all),
        ]
        self._of_redis: list[Callable[[], None]] = [
            *(self._restart_redis, self._freeze_redis, self._pause_clients, self._pause_writes),
            *(self._kill_clients, self._kill_blocked, self._kill_subscribers),
            *(self._fill_memory, self._flush_scripts),
        ]

    def _strike(self) -> None:
        up = [node for node in self._nodes if node.is_up]
        kind = self._draw.choice(["node", "node", "link", "redis"])
        if kind == "redis":
            self._draw.choice(self._of_redis)()
        elif kind == "link":
            links = [(node.name, node.link) for node in self._nodes if node.link]
            self._draw.choice(self._of_link)(*self._draw.choice(links))
        elif len(up) > len(self._nodes) - MOST_AWAY:
            self._draw.choice(self._of_node)(self._draw.choice(up))

    def _notice_end(self, worker: Worker) -> None:
        code = worker.process.poll() if worker.process else None
        is_new = worker.name not in self._starting
        if is_new and code not in (None, -signal.SIGKILL) and not worker.is_leaving:
            self.ended_alone.append(f"{worker.name} ended by itself with exit code {code}")
        super()._notice_end(worker)

    # --- nodes

    def _ask_to_stop_now(self, node: Node) -> None:
        self._note("SIGQUIT", node.name)
        node.ask_to_stop_now()

    def _hang(self, node: Node) -> None:
        self._note("main thread hangs", node.name)
        with contextlib.suppress(psutil.NoSuchProcess):
            if main := node.main:
                main.send_signal(signal.SIGUSR2)

    def _starve(self, node: Node) -> None:
        self._note("nice 19", node.name)
        node.set_nice(19)
        self._later(STARVED, lambda: node.set_nice(0))

    def _stop_main(self, node: Node) -> None:
        self._stop_process("SIGSTOP of the main process", node, node.main)

    def _stop_pulse(self, node: Node) -> None:
        self._stop_process("SIGSTOP of the pulse", node, node.pulse)

    def _stop_child(self, node: Node) -> None:
        self._stop_process("SIGSTOP of a child", node, self._child(node))

    def _kill_pulse(self, node: Node) -> None:
        if pulse := node.pulse:
            self._note("kill -9 of the pulse", node.name)
            self._signal(pulse, signal.SIGKILL)

    def _kill_child(self, node: Node) -> None:
        # Celery's worker ends if a child process dies before the worker is ready.
        if node.is_ready and (child := self._child(node)):
            self._note("kill -9 of a child", node.name)
            self.killed_children[node.name].append(time.monotonic())
            self._signal(child, signal.SIGKILL)

    def _child(self, node: Node) -> psutil.Process | None:
        children = node.children
        return self._draw.choice(children) if children else None

    def _stop_process(self, fault: str, node: Node, process: psutil.Process | None) -> None:
        if process:
            self._note(fault, node.name)
            self._signal(process, signal.SIGSTOP)
            self._for_a_while(lambda: self._signal(process, signal.SIGCONT))

    @staticmethod
    def _signal(process: psutil.Process, signum: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)

    # --- network

    def _delay(self, name: str, link: Proxy) -> None:
        self._note("network: slow", name)
        link.delay = self._draw.uniform(0.05, 0.5)
        self._for_a_while(lambda: setattr(link, "delay", 0.0))

    def _hold(self, name: str, link: Proxy) -> None:
        self._note("network: held", name)
        link.hold()
        self._for_a_while(link.release)

    def _hold_some(self, name: str, link: Proxy) -> None:
        self._note("network: some connections held", name)
        link.hold_some(self._draw, 3)
        self._for_a_while(link.release)

    def _cut(self, name: str, link: Proxy) -> None:
        self._note("network: cut", name)
        link.cut()
        self._for_a_while(link.mend)

    def _cut_some(self, name: str, link: Proxy) -> None:
        self._note("network: some connections cut", name)
        link.cut_some(self._draw, 3)

    def _silence_some(self, name: str, link: Proxy) -> None:
        self._note("network: one connection silently dropped", name)
        link.silence_some(self._draw, 1)

    def _silence_all(self, name: str, link: Proxy) -> None:
        self._note("network: all connections silently dropped", name)
        link.silence_some(self._draw, 1000)

    # --- Redis

    def _freeze_redis(self) -> None:
        self._note("Redis frozen (SIGSTOP)")
        process = self._server.process
        assert process
        process.send_signal(signal.SIGSTOP)
        self._for_a_while(lambda: process.send_signal(signal.SIGCONT))

    def _pause_clients(self) -> None:
        self._note("CLIENT PAUSE ALL")
        self._call("CLIENT", "PAUSE", int(1000 * self._draw.uniform(*DURATION)), "ALL")

    def _pause_writes(self) -> None:
        self._note("CLIENT PAUSE WRITE")
        self._call("CLIENT", "PAUSE", int(1000 * self._draw.uniform(*DURATION)), "WRITE")

    def _kill_clients(self) -> None:
        self._note("CLIENT KILL of some")
        clients = self._clients()
        for client in self._draw.sample(clients, min(5, len(clients))):
            self._call("CLIENT", "KILL", "ID", client["id"])

    def _kill_blocked(self) -> None:
        self._note("CLIENT KILL of the clients that wait for messages")
        for client in self._clients():
            if "b" in client["flags"]:
                self._call("CLIENT", "KILL", "ID", client["id"])

    def _kill_subscribers(self) -> None:
        self._note("CLIENT KILL TYPE pubsub")
        self._call("CLIENT", "KILL", "TYPE", "pubsub")

    def _fill_memory(self) -> None:
        self._note("Redis out of memory")
        self._call("CONFIG", "SET", "maxmemory", "1")
        self._for_a_while(self._free_memory)

    def _free_memory(self) -> None:
        if self._call("CONFIG", "SET", "maxmemory", "0") is None:
            self._later(1.0, self._free_memory)

    def _clients(self) -> list[dict[str, str]]:
        with contextlib.suppress(RedisError), self._server.client(**IMPATIENT) as client:
            return list(client.client_list())
        return []

    def _call(self, *command: Any) -> Any:
        """The reply of Redis, or ``None`` if there is no reply."""
        with contextlib.suppress(RedisError), self._server.client(**IMPATIENT) as client:
            return client.execute_command(*command)
        return None

    def _flush_scripts(self) -> None:
        self._note("SCRIPT FLUSH")
        self._call("SCRIPT", "FLUSH")

    def _for_a_while(self, undo: Callable[[], None]) -> None:
        self._later(self._draw.uniform(*DURATION), undo)
