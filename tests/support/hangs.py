"""Remote control commands by which a node's worker stops working."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from celery.worker.control import control_command


@control_command(args=[("fifo", str)])
def hang(state: Any, fifo: str) -> None:
    """Hang the worker's event loop until the FIFO is opened for writing."""
    _note(state)
    with open(fifo):
        pass


@control_command(args=[("fifo", str)])
def hang_interpreter(state: Any, fifo: str) -> None:
    """Hang the worker's whole interpreter, without computing, as a C extension may."""
    _note(state)
    ctypes.PyDLL(None).open(fifo.encode(), os.O_RDONLY)


def _note(state: Any) -> None:
    state.app.backend.client.rpush("test:hung", state.hostname)


@control_command()
def deafen(state: Any) -> str:
    """Read no more messages, and continue to consume."""
    state.consumer.connection.default_channel._brpop_start = lambda *_, **__: None
    return "deaf"
