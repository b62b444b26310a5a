"""The node measures its load over a minimum period, and counts only the GPUs it may use."""

from __future__ import annotations

import pytest

from node_agent import load


def test_a_measurement_is_reused_within_its_period(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may send a heartbeat every few milliseconds.

    CPU usage over such a short time is noise.
    """
    meter = load.LoadMeter()
    first = meter.read()
    assert {"cpu", "mem"} <= first.keys()
    monkeypatch.setattr(load.psutil, "cpu_percent", lambda: 12.3)
    assert [meter.read() for _ in range(20)] == [first] * 20
    monkeypatch.setattr(load, "_PERIOD", 0.0)
    meter = load.LoadMeter()
    assert meter.read()["cpu"] == 12.3


class ThreeGpus:
    """The functions of NVML that the meter calls, for a machine with three GPUs."""

    uuids = ("GPU-8932f937", "GPU-89d42d6f", "GPU-5c3e784c")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.uuids[handle]


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("1", [1]),
        ("2, 0", [2, 0]),
        ("GPU-89d42d6f,GPU-5", [1, 2]),
        ("GPU-89", []),  # ambiguous
        ("0,2,-1,1", [0, 2]),
        ("3", []),
        ("MIG-5c3e784c", []),
    ],
)
def test_the_visible_gpus_follow_cuda_visible_devices(visible: str | None, gpus: list[int]) -> None:
    assert load.visible_gpus(ThreeGpus(), visible) == gpus
