"""The scripts as files: their contracts, their includes, and that an installed wheel has them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import hatchling.build
import pytest
import redis

from celery_minsched import DispatchRequest, MinimalSchedulerService, RegisterNodeRequest, scripts

from .fleet import ROOT
from .server import Server

LUA = ROOT / "celery_minsched" / "lua"
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua"))
FLOWS = {"register_node", "heartbeat", "dispatch_task", "complete_task"}


def test_the_four_flows_are_one_script_each() -> None:
    assert set(SCRIPTS) >= FLOWS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_states_its_contract(name: str) -> None:
    header = (LUA / f"{name}.lua").read_text().split("\n\n")[0]
    for part in ("KEYS[1]", "KEYS[2]", "ARGV[1]", "Returns"):
        assert part in header
    source = scripts.source(name)
    body = source.split("-- Returns", 1)[1]
    used = {int(n) for n in re.findall(r"ARGV\[(\d+)\]", body)}
    stated = {int(n) for n in re.findall(r"ARGV\[(\d+)", header)}
    assert used <= stated


def test_every_include_is_used_and_joined_once() -> None:
    used = set()
    for name in SCRIPTS:
        source = scripts.source(name)
        for include in (LUA / "include").glob("*.lua"):
            count = source.count(include.read_text())
            assert count <= 1
            if count:
                used.add(include.stem)
    assert used == {path.stem for path in (LUA / "include").glob("*.lua")}


def test_a_server_that_has_lost_its_scripts_is_sent_them_again(
    service: MinimalSchedulerService, client: redis.Redis
) -> None:
    service.register_node(RegisterNodeRequest(node_id="n1", max_jobs=9, pools_json='["asr"]'))
    for _ in range(2):
        client.script_flush()
        assert service.dispatch_task(DispatchRequest(pool="asr")).node_id == "n1"
        client.script_flush()
        assert len(service.dispatch_tasks([DispatchRequest(pool="asr")] * 2)) == 2


def test_an_installed_wheel_has_the_scripts(server: Server, tmp_path: Path) -> None:
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = hatchling.build.build_wheel(str(tmp_path))
    finally:
        os.chdir(here)
    elsewhere = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / wheel) as archive:
        archive.extractall(elsewhere)
    program = f"""
import redis, celery_minsched, node_agent.cli
from celery_minsched import *
assert celery_minsched.__file__.startswith({str(elsewhere)!r}), celery_minsched.__file__
service = MinimalSchedulerService(redis.Redis(port={server.port}))
service.register_node(RegisterNodeRequest(node_id="n1", max_jobs=1, pools_json='["asr"]'))
print(service.dispatch_task(DispatchRequest(pool="asr")).node_id)
"""
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(elsewhere)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (answer.stdout.strip(), answer.returncode) == ("n1", 0), answer.stderr
    assert "Requires-Dist: celery" in next(elsewhere.glob("*.dist-info/METADATA")).read_text()
