"""The load of this machine: cpu, memory, and GPUs where there are any, in percent."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import psutil

#: Seconds for which a measurement is good. While delayed jobs fall due a node beats every few
#: milliseconds, and cpu over so short a time is 0 or 100.
_PERIOD = 0.5


class LoadMeter:
    """Measures cpu between two readings, memory and GPUs now.

    GPUs are read by NVML (``nvidia-ml-py``, the extra ``gpu``): all of the machine, or those that
    ``CUDA_VISIBLE_DEVICES`` leaves to this node. Without that package, a driver or a GPU they are
    left out of the report. NVML does not survive a fork: make the meter in the process that reads
    it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(Exception):  # the first reading has nothing to compare with
            psutil.cpu_percent()
        self._load: dict[str, float] = {}
        self._next = 0.0
        self._nvml: Any = None
        self._gpus: list[Any] = []
        with contextlib.suppress(Exception):  # no package, no driver, no GPU: all say so by raising
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._gpus = visible_gpus(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def read(self) -> dict[str, float]:
        """``{"cpu": …, "mem": …}``, with ``gpu`` and ``gpu_mem`` (means over the GPUs) if any. A
        value that cannot be measured is left out: the heartbeat goes on without it.
        """
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD
            self._load = self._measure()
        return self._load

    def _measure(self) -> dict[str, float]:
        load: dict[str, float] = {}
        with contextlib.suppress(Exception):  # /proc may be unreadable, as in some containers
            load["cpu"] = psutil.cpu_percent()
        with contextlib.suppress(Exception):
            load["mem"] = psutil.virtual_memory().percent
        with contextlib.suppress(Exception):  # a GPU may fall off the bus; the pulse goes on
            if self._gpus:
                busy = [self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in self._gpus]
                memory = [self._nvml.nvmlDeviceGetMemoryInfo(gpu) for gpu in self._gpus]
                load["gpu"] = sum(busy) / len(busy)
                load["gpu_mem"] = 100 * sum(m.used for m in memory) / sum(m.total for m in memory)
        return {name: round(value, 1) for name, value in load.items()}


def visible_gpus(nvml: Any, visible: str | None) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows to a process with this ``CUDA_VISIBLE_DEVICES``.

    NVML itself shows all, whatever that says. It names GPUs by number or by UUID, of which a
    beginning will do; what is neither hides itself and those after it (CUDA Programming Guide 13,
    section 5.2.1.1). A slice of a GPU (``MIG-…``) has no load that NVML could tell.
    """
    gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return gpus
    uuids = [nvml.nvmlDeviceGetUUID(gpu) for gpu in gpus]
    shown = []
    for name in map(str.strip, visible.split(",")):
        found = [
            gpu
            for number, (gpu, uuid) in enumerate(zip(gpus, uuids, strict=True))
            if name == str(number) or (name.startswith("GPU-") and uuid.startswith(name))
        ]
        if len(found) != 1:
            break
        shown += found
    return shown
