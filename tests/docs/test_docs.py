"""Each Python snippet in the README and the docs runs and gives the output on the page."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_minsched import MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.queries import Views

from ..support import snippets
from ..support.fleet import ROOT, wait_for
from ..support.forked import ForkedProcess
from ..support.server import Server

START = ROOT / "docs/getting-started.md"
#: Pages whose snippets another test runs.
ELSEWHERE = {"docs/migration.md": "tests/docs/test_migration_page.py"}
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if str(page.relative_to(ROOT)) not in ELSEWHERE and list(snippets.blocks(page))
]


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    """A server with the application and the nodes of docs/getting-started.md."""
    server = Server()
    folder = Path(server.directory.name)
    page = START.read_text(encoding="utf-8")
    [app] = re.findall(r'^```python title="speech.py"\n(.*?)^```$', page, re.M | re.S)
    (folder / "speech.py").write_text(app)
    commands = re.findall(r"^node-agent .*$", page, re.M)
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "node_agent", *shlex.split(command)[1:], "-P", "threads"],
            cwd=folder,
            env=environment(server),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        with server.client() as client:
            views = Views(client, MinimalSchedulerService(client).keys)
            wait_for(lambda: sum(node.takes_jobs for node in views.nodes()) == len(nodes))
            yield server
            wait_for(lambda: Checker(views).check() == [])
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(60)
        server.close()


def environment(server: Server, database: int = 0) -> dict[str, str]:
    """Environment variables for a node. The README has another application and uses database 1."""
    url = server.url.removesuffix("0") + str(database)
    return {**os.environ, "BROKER": url, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_give_its_output(page: Path, broker: Server, tmp_path: Path) -> None:
    process = ForkedProcess(
        snippets.main,
        [str(page)],
        environment(broker, database=1 if page.name == "README.md" else 0),
        tmp_path / "log",
        Path(broker.directory.name),
    )
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
