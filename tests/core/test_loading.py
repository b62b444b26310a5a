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

from celery_minsched import DispatchRequest, MinimalSchedulerService, RegisterNodeRequest
from celery_minsched.core import scripts

from ..support.fleet import ROOT
from ..support.server import Server

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
            title = next(
                line
                for line in include.read_text().splitlines()
                if not line.startswith("-- include:")
            )
            count = source.count(title)
            assert count <= 1
            if count:
                used.add(include.stem)
    assert used == {path.stem for path in (LUA / "include").glob("*.lua")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_each_function_that_it_calls_and_no_other(name: str) -> None:
    """Redis makes all functions of a script anew at each call."""
    defined = re.compile(r"^local function (\w+)\(", re.MULTILINE)
    known = {
        found
        for path in (LUA / "include").glob("*.lua")
        for found in defined.findall(path.read_text())
    }
    source = scripts.source(name)
    code = re.sub(r"--.*", "", source)
    there = defined.findall(source)
    assert len(there) == len(set(there))
    for function in known:
        uses = re.findall(rf"(?<![.\w])(?<!local function ){function}\b", code)
        assert bool(uses) == (function in there), function
    assert not re.search(r"\bkey\.", code)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_no_more_local_names_than_lua_allows(name: str) -> None:
    """Lua allows 200. A script is refused by the server above that: there is room for some more."""
    declared = re.findall(r"^local (function \w+|[^=\n]+)", scripts.source(name), re.MULTILINE)
    assert sum(len(names.split(",")) for names in declared) <= 190


def test_a_server_that_has_lost_its_scripts_is_sent_them_again(
    service: MinimalSchedulerService, client: redis.Redis
) -> None:
    service.register_node(RegisterNodeRequest(node_id="n1", max_jobs=9, pools_json='["asr"]'))
    for _ in range(2):
        client.script_flush()
        assert service.dispatch_task(DispatchRequest(pool="asr")).node_id == "n1"
        client.script_flush()
        assert service.place_jobs(["u:1", "u:2"], handed_back_by="n1") == ["unchanged"] * 2


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
        timeout=120,
    )
    assert (answer.stdout.strip(), answer.returncode) == ("n1", 0), answer.stderr
    assert "Requires-Dist: celery" in next(elsewhere.glob("*.dist-info/METADATA")).read_text()
