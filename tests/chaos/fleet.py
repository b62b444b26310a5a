"""Six nodes, prefork and threads: three behind a proxy, two with more slots than processes."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple

import psutil

from ..soak.fleet import Worker, command
from ..support.proxy import Proxy
from ..support.server import Server
from .app import CHILDREN

APP = "tests.chaos.app"


class Box(NamedTuple):
    """The options of a node."""

    name: str
    pool: str
    processes: int  # or threads
    slots: int
    is_far: bool  # behind a proxy


BOXES = [
    Box("n1", "prefork", 2, 2, is_far=False),
    Box("n2", "prefork", 2, 4, is_far=True),
    Box("n3", "prefork", 3, 3, is_far=True),
    Box("n4", "threads", 4, 4, is_far=False),
    Box("n5", "threads", 3, 3, is_far=True),
    Box("n6", "threads", 2, 5, is_far=False),
]


class Node(Worker):
    """A node whose processes can get signals separately."""

    def __init__(self, box: Box, logs: Path, server: Server) -> None:
        self.link = Proxy(server.port) if box.is_far else None
        options = ["--slots", str(box.slots)]
        super().__init__(
            box.name,
            [*command(box.name, box.pool, box.processes, APP), *options],
            logs,
            SOAK_BROKER=self.link.url if self.link else server.url,
        )

    @property
    def main(self) -> psutil.Process | None:
        """The main process of the node, if it runs."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.process and self.process.poll() is None:
                return psutil.Process(self.process.pid)
        return None

    @property
    def children(self) -> list[psutil.Process]:
        """The processes of the node's pool."""
        return [child for child in self._family() if self._is_of_pool(child)]

    @property
    def pulse(self) -> psutil.Process | None:
        """The process that sends the node's heartbeats."""
        others = [child for child in self._family() if not self._is_of_pool(child)]
        return min(others, key=lambda child: child.create_time(), default=None)

    def ask_to_stop_now(self) -> None:
        """Send SIGQUIT. A prefork pool kills its running tasks."""
        assert self.process
        self.begin_absence("SIGQUIT")
        self.is_leaving = True
        self.process.send_signal(signal.SIGQUIT)

    def set_nice(self, nice: int) -> None:
        """Set the niceness of all processes of the node."""
        assert self.process
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PGRP, self.process.pid, nice)

    def close(self) -> None:
        super().close()
        if self.link:
            self.link.close()

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if main := self.main:
                return list(main.children())
        return []

    @staticmethod
    def _is_of_pool(child: psutil.Process) -> bool:
        return (CHILDREN / str(child.pid)).exists()


def make_fleet(logs: Path, server: Server) -> list[Node]:
    """The nodes, not yet started."""
    return [Node(box, logs, server) for box in BOXES]
