"""On a machine with a GPU a node reports the load of the GPU, and jobs prefer an idle GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from node_agent.load import LoadMeter

from ..support.fleet import Fleet, wait_for

pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None or "gpu" not in LoadMeter().read(),
    reason="NVML reports no GPU on this machine",
)

#: Keeps the GPU busy until it is killed.
BURN = """
import torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
while True:
    for _ in range(20):
        b = a @ a
    torch.cuda.synchronize()
"""


@contextmanager
def busy_gpu() -> Iterator[None]:
    pytest.importorskip("torch", reason="the test loads the GPU with torch")
    process = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def load_of(fleet: Fleet, node_id: str) -> dict[str, Any]:
    node = fleet.node(node_id)
    return dict(node.load) if node else {}


def test_jobs_go_to_the_node_with_an_idle_gpu(fleet: Fleet) -> None:
    """Two nodes run on one machine. One of them may use the GPU."""
    for node_id, visible in (("gpu", "0"), ("none", "")):
        fleet.environment["CUDA_VISIBLE_DEVICES"] = visible
        fleet.start_ready(node_id, "-P", "threads")

    def nodes_of_jobs(count: int) -> set[str]:
        node_ids = set()
        for _ in range(count):
            result = fleet.send("add", 1)
            result.get(timeout=20)
            job = fleet.job(result.id)
            assert job
            node_ids.add(job.node_id)
            fleet.wait_idle()  # free slots count before load
        return node_ids

    wait_for(lambda: "gpu" in load_of(fleet, "gpu"), "a load of the GPU")
    assert 0 < load_of(fleet, "gpu")["gpu_mem"] < 100
    assert "gpu" not in load_of(fleet, "none")
    with busy_gpu():
        wait_for(lambda: load_of(fleet, "gpu")["gpu"] > 90, "the GPU to be busy", 60)
        assert nodes_of_jobs(10) == {"none"}
    wait_for(lambda: load_of(fleet, "gpu")["gpu"] < 5, "the GPU to be idle")
