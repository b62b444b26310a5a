"""The scripts as files: contracts, includes, and the installed wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import hatchling.build
import pytest
import redis

from celery_minsched import DispatchRequest, MinimalSchedulerService, RegisterNodeRequest
from celery_minsched.core import lua_source, scripts
from celery_minsched.core.field_types import MAX_SLOTS
from celery_minsched.core.job_fields import JobArguments

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


def code_of(path: Path) -> str:
    _, _, body = path.read_text().partition("\n\n")
    return re.sub(r"--.*", "", body)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_each_argument_of_its_header(name: str) -> None:
    """Other tests check the opposite: each argument of a script is in its header."""
    arguments = lua_source.arguments(name)
    assert arguments.single[0] == "times"  # include/context.lua uses it
    used_arguments = set(re.findall(r"\bARGV\.(\w+)", code_of(LUA / f"{name}.lua"))) | {"times"}
    assert used_arguments == {*arguments.single, *([arguments.items] if arguments.items else [])}


def test_the_fields_of_a_job_are_those_of_the_headers() -> None:
    assert lua_source.arguments("dispatch_task").fields == JobArguments._fields
    assert lua_source.arguments("adopt_task").fields == ("raw", *JobArguments._fields)


def test_arguments_have_their_names_in_a_script() -> None:
    stated = lua_source.Arguments(("times", "node_id"), "jobs", ("demand", "message"))
    for text, numbered in (
        ("f(ARGV.node_id)", "f(ARGV[2])"),
        ("#ARGV.jobs > 100", "((#ARGV - 2) / 2) > 100"),
        (
            "for demand, message in ARGV.jobs do f() end",
            "for at = 3, #ARGV, 2 do local demand, message = ARGV[at], ARGV[at + 1] f() end",
        ),
    ):
        assert lua_source.number_arguments(text, stated) == numbered
    for text in (
        *("ARGV[2]", "#ARGV", "ARGV.other", "#ARGV.other", "ARGV.jobs", "{ARGV.jobs}"),
        *("for message, demand in ARGV.jobs do", "for demand in ARGV.jobs do"),
    ):
        with pytest.raises(ValueError, match="ARGV"):
            lua_source.number_arguments(text, stated)


def test_a_call_has_the_names_of_the_header() -> None:
    names = ["node_id", "delivery_tag", "term"]
    arguments: dict[str, Any] = {
        "term": 4,
        "node_id": "n1",
        "times": "1 1 1 1 1",
        "delivery_tag": "t",
    }
    assert scripts.in_order("acknowledge_job", **arguments) == ["1 1 1 1 1", "n1", "t", 4]
    for name in names:
        wrong = {
            ("x" if argument == name else argument): arguments[argument] for argument in arguments
        }
        with pytest.raises(TypeError, match=r"acknowledge_job.lua takes times, node_id"):
            scripts.in_order("acknowledge_job", **wrong)
    with pytest.raises(TypeError, match="acknowledge_job"):
        scripts.in_order("acknowledge_job", **arguments, job_id="u:1")
    with pytest.raises(TypeError, match="revoke_tasks"):
        scripts.in_order("revoke_tasks", times="", node_id="n1")
    args = scripts.in_order("revoke_tasks", times="", node_id="n1", task_ids=["a", "b"])
    assert args == ["", "n1", "a", "b"]


def test_python_reads_numbers_of_the_scripts() -> None:
    assert lua_source.number("node", "LAST_CHOSEN_RANGE") == 2**39
    assert lua_source.number("node", "MOST_SHARE") > MAX_SLOTS  # each slot changes the share
    buckets = lua_source.numbers("events", "WAIT_BUCKETS")
    assert buckets == tuple(sorted(buckets))
    with pytest.raises(ValueError, match="not enough values"):
        lua_source.number("node", "NO_SUCH_NUMBER")


def test_every_include_is_used_and_included_once() -> None:
    used_includes = set()
    for name in SCRIPTS:
        source = lua_source.source(name)
        for include in (LUA / "include").glob("*.lua"):
            title = next(
                line
                for line in include.read_text().splitlines()
                if not line.startswith("-- include:")
            )
            count = source.count(title)
            assert count <= 1
            if count:
                used_includes.add(include.stem)
    assert used_includes == {path.stem for path in (LUA / "include").glob("*.lua")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_exactly_the_functions_that_it_calls(name: str) -> None:
    """Redis creates all functions of a script at each call."""
    defined = re.compile(r"^local function (\w+)\(", re.MULTILINE)
    functions = {
        function
        for path in (LUA / "include").glob("*.lua")
        for function in defined.findall(path.read_text())
    }
    source = lua_source.source(name)
    code = re.sub(r"--.*", "", source)
    included = defined.findall(source)
    assert len(included) == len(set(included))
    for function in functions:
        uses = re.findall(rf"(?<![.\w])(?<!local function ){function}\b", code)
        assert bool(uses) == (function in included), function
    assert not re.search(r"\bkey\.", code)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_no_more_local_names_than_lua_allows(name: str) -> None:
    """Lua allows 200 local names in a function. The server refuses a script with more."""
    for part in lua_source.source(name).split("\nreturn (function()\n"):
        declared = re.findall(r"^local (function \w+|[^=\n]+)", part, re.MULTILINE)
        assert sum(len(names.split(",")) for names in declared) <= 190


def test_a_server_without_its_scripts_gets_them_again(
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
