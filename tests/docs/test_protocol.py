"""docs/protocol.md agrees with the source, and a client without Python needs no other page."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from celery_minsched.consistency.checker import Checker
from celery_minsched.core import lua_source
from celery_minsched.core.key_contents import HOLDS
from celery_minsched.core.keys import QUEUES, STATE
from celery_minsched.monitor.queries import Views

from ..support.all_keys import use_every_key
from ..support.desk import Desk
from ..support.fleet import ROOT, Fleet, wait_for
from ..support.server import Server

PAGE = ROOT / "docs/protocol.md"
COMMAND_LINE = shutil.which("redis-cli") or shutil.which("valkey-cli")
END = "-- end of the output --"


def test_the_reference_pages_are_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec
    assert spec.loader
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    for page in writer.PAGES:
        text = page.read_text(encoding="utf-8")
        assert writer.rewrite(text) == text, f"{page} is not current: make docs-reference"


def test_the_page_has_each_script_and_each_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\w+)$", page, re.M)) == set(lua_source.names())
    assert HOLDS.keys() == STATE.keys() | QUEUES.keys()
    for name, template in {**STATE, **QUEUES}.items():
        assert len(HOLDS[name][0]) == template.count("{}"), name


def test_each_key_has_the_type_that_the_page_names(desk: Desk, client: redis.Redis) -> None:
    use_every_key(desk)
    desk.send(due_ts=10**15)
    for _ in range(5):
        desk.send(pool=None, src_lang="zh", tgt_lang="en")
    names = set()
    for key in client.keys("*"):
        name, _, _ = desk.service.keys.parse(key) or pytest.fail(f"{key} is on no page")
        kind = HOLDS[name][1].removesuffix(", TTL")
        assert {"sorted set": "zset"}.get(kind, kind) == client.type(key), key
        names.add(name)
    assert names >= {"node_info", "job", "session", "waiting", "delayed", "lang_waiting", "events"}


def test_the_page_names_each_field_of_a_node_s_record(desk: Desk, client: redis.Redis) -> None:
    use_every_key(desk)
    named = set(re.findall(r"`([a-z_]+)( <pool>)?`", HOLDS["node_info"][2]))
    records = [client.hkeys(key) for key in client.keys(desk.service.keys("node_info", "*"))]
    stored = {field.partition(" ")[0] for record in records for field in record}
    assert {"cap_json", "served"} <= stored <= {name for name, _ in named}


def dialogue() -> list[tuple[str, str]]:
    """The commands of the page, each with its output."""
    examples = []
    for block in re.findall(
        r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S
    ):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, answer = re.findall(r"\A(.*\n(?:>.*\n)*)((?s:.*))", part)[0]
            examples.append((re.sub(r"^> ?", "", command, flags=re.M), answer))
    return examples


def run_in_shell(commands: list[str], server: Server, directory: Path) -> list[str]:
    """The output of each command in a shell whose redis-cli connects to the server."""
    script = f'redis-cli() {{ {COMMAND_LINE} -p {server.port} "$@"; }}\n'
    script += "".join(f"{command}\necho '{END}'\n" for command in commands)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return shell.stdout.split(f"{END}\n")[:-1]


@pytest.mark.skipif(not COMMAND_LINE, reason="no redis-cli and no valkey-cli (make redis-cli)")
def test_the_commands_of_the_page_give_its_output(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """The page has the four flows, and a task that a node runs."""
    environment = {"OPERATIONS_BROKER": server.url, "PYTHONPATH": f"{ROOT}:{ROOT / 'docs'}"}
    fleet = Fleet(server, "speech", environment=environment)
    try:
        fleet.start_ready("gpu-1", "-P", "threads")
        examples = dialogue()
        commands = [command for command, _ in examples]
        outputs = run_in_shell(commands, server, tmp_path)
        assert list(zip(commands, outputs, strict=True)) == examples
        wait_for(lambda: client.hget("scheduler:job:u42:4", "status") == "finished")
        wait_for(lambda: Checker(Views(client, fleet.plugin.scheduler.keys)).check() == [])
    finally:
        fleet.close()
