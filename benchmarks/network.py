"""A simulated network: a proxy that delays all data, and counts the bytes to the server."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized

CHUNK = 1 << 20


@dataclass(frozen=True)
class Network:
    """The local port of the proxy, and the number of bytes that it sent to the server."""

    port: int
    _sent: Synchronized[int]

    @property
    def sent(self) -> int:
        return self._sent.value


@contextmanager
def network(port: int, round_trip: float = 0.0) -> Iterator[Network]:
    """A network that forwards to ``port`` with a round trip of ``round_trip`` seconds."""
    context = multiprocessing.get_context("fork")
    sent = context.Value("q")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The proxy runs in its own process, so that it takes no time from the measured process.
        proxy = context.Process(
            target=_serve, args=(listener, port, round_trip / 2, sent), daemon=True
        )
        proxy.start()
        try:
            yield Network(int(listener.getsockname()[1]), sent)
        finally:
            proxy.terminate()
            proxy.join()


def _serve(listener: socket.socket, port: int, delay: float, sent: Synchronized[int]) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", port))
        for source, sink, count in ((client, server, sent), (server, client, None)):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_carry, args=(source, sink, delay, count), daemon=True).start()


def _carry(
    source: socket.socket, sink: socket.socket, delay: float, sent: Synchronized[int] | None
) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            if sent:
                with sent.get_lock():
                    sent.value += len(data)
            if delay:
                time.sleep(delay)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
