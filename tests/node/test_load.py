"""A node's load is measured over a time that means something, however often it is asked for."""

from __future__ import annotations

import pytest

from node_agent import load


def test_a_measurement_is_good_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """While delayed jobs fall due a node beats every few milliseconds: cpu over those is noise."""
    meter = load.LoadMeter()
    first = meter.read()
    assert {"cpu", "mem"} <= first.keys()
    monkeypatch.setattr(load.psutil, "cpu_percent", lambda: 12.3)
    assert [meter.read() for _ in range(20)] == [first] * 20
    monkeypatch.setattr(load, "_PERIOD", 0.0)
    meter = load.LoadMeter()
    assert meter.read()["cpu"] == 12.3


class ThreeGpus:
    """What the meter asks of NVML, of a machine with three GPUs."""

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
        ("GPU-89", []),  # of which of the two?
        ("0,2,-1,1", [0, 2]),
        ("3", []),
        ("MIG-5c3e784c", []),
    ],
)
def test_a_node_tells_of_the_gpus_that_are_left_to_it(visible: str | None, gpus: list[int]) -> None:
    """As CUDA reads it: one node a GPU is the usual way to run several on one machine."""
    assert load.visible_gpus(ThreeGpus(), visible) == gpus
