"""Remote control commands by which a node's worker stops working."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from celery.worker.control import control_command


@control_command(args=[("seconds", float)])
def hang(state: Any, seconds: float) -> None:
    """Hang the worker's event loop."""
    time.sleep(seconds)


@control_command(args=[("seconds", int)])
def hang_interpreter(state: Any, seconds: int) -> None:
    """Hang the worker's whole interpreter, without computing, as a C extension may."""
    ctypes.PyDLL(None).sleep(seconds)


@control_command()
def deafen(state: Any) -> str:
    """Ask for no more messages, and go on consuming."""
    state.consumer.connection.default_channel._brpop_start = lambda *_, **__: None
    return "deaf"
