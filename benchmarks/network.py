"""A simulated network: a proxy that delays all data."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 1 << 20


@contextmanager
def network(port: int, round_trip: float) -> Iterator[int]:
    """A local port that forwards to ``port`` with a round trip of ``round_trip`` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Its own process, so that it does not take time from the measured process.
        proxy = multiprocessing.get_context("fork").Process(
            target=_serve, args=(listener, port, round_trip / 2), daemon=True
        )
        proxy.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            proxy.terminate()
            proxy.join()


def _serve(listener: socket.socket, port: int, delay: float) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for source, sink in ((near, far), (far, near)):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_carry, args=(source, sink, delay), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket, delay: float) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            time.sleep(delay)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
