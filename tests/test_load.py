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
