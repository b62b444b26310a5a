"""The load of this machine in percent: cpu, memory and GPUs."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import psutil

#: Seconds for which a measurement is valid. While delayed jobs become due, a node sends a heartbeat
#: every few milliseconds, and the cpu load over so short a time is 0 or 100.
_PERIOD = 0.5


class LoadMeter:
    """Measures the cpu load since the last reading, and the present load of memory and GPUs.

    NVML (``nvidia-ml-py``, the extra ``gpu``) reads the GPUs that ``CUDA_VISIBLE_DEVICES`` gives to
    this node. Without the package, a driver or a GPU, the report has no GPU load. NVML does not
    survive a fork: make the meter in the process that reads it.
    """

    def __init__(self) -> None:
        with contextlib.suppress(Exception):  # begins the first measurement
            psutil.cpu_percent()
        self._load: dict[str, float] = {}
        self._next = 0.0
        self._nvml: Any = None
        self._gpus: list[Any] = []
        with contextlib.suppress(Exception):  # no package, no driver, no GPU
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._gpus = visible_gpus(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def read(self) -> dict[str, float]:
        """``{"cpu": …, "mem": …}``, and ``gpu`` and ``gpu_mem`` (means over the GPUs) if there are
        GPUs. A value that cannot be measured is left out.
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
        with contextlib.suppress(Exception):  # a GPU may fall off the bus
            if self._gpus:
                busy = [self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in self._gpus]
                memory = [self._nvml.nvmlDeviceGetMemoryInfo(gpu) for gpu in self._gpus]
                load["gpu"] = sum(busy) / len(busy)
                load["gpu_mem"] = 100 * sum(m.used for m in memory) / sum(m.total for m in memory)
        return {name: round(value, 1) for name, value in load.items()}


def visible_gpus(nvml: Any, visible: str | None) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows to a process with this ``CUDA_VISIBLE_DEVICES``.

    NVML itself ignores that variable. The variable names a GPU by its number, its UUID or the
    beginning of its UUID. Any other name hides itself and the names after it (CUDA Programming
    Guide 13, section 5.2.1.1). NVML cannot tell the load of a slice of a GPU (``MIG-…``).
    """
    gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return gpus
    uuids = [nvml.nvmlDeviceGetUUID(gpu) for gpu in gpus]
    shown = []
    for name in map(str.strip, visible.split(",")):
        matches = [
            gpu
            for number, (gpu, uuid) in enumerate(zip(gpus, uuids, strict=True))
            if name == str(number) or (name.startswith("GPU-") and uuid.startswith(name))
        ]
        if len(matches) != 1:
            break
        shown += matches
    return shown
