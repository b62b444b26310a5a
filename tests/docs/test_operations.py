"""docs/operations.md shows what the commands say today."""

from __future__ import annotations

import importlib.util
import re
import shlex
from types import ModuleType

import pytest

from celery_minsched.cli import minsched

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import ROOT, make_app
from ..support.server import Server


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_operations", ROOT / "docs/make_operations.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


writer = _load()
PAGE = writer.PAGE.read_text(encoding="utf-8")
SAID = [
    (command.partition(" minsched ")[2], answer)
    for command, answer in writer.dialogue(PAGE)
    if " minsched " in command and " inspect " not in command
]


def form(answer: str) -> list[list[str]]:
    """The headings of an answer's tables; of one without, how it begins."""
    lines = [line.split() for line in answer.splitlines()]
    headings = [line for line in lines if len(line) > 2 and all(map(str.isupper, line))]
    return headings or [[re.sub(r"\d", "0", word) for word in lines[0][:1]]]


@pytest.fixture
def fleet(desk: Desk) -> None:
    """What the page's fleet looks like, by hand."""
    desk.node("gpu-1", 2, caps=["whisper-large"])
    desk.node("gpu-2", 2)
    desk.node("cpu-1", 3, [{"id": "mt", "langs": [["zh", "en"]]}])
    for task_id in ("a", "b", writer.PLACED, "d"):
        desk.dispatch(task_id=task_id)
    desk.park(task_id=writer.WAITS)
    desk.park(task_id=writer.IMPOSSIBLE, capabilities=["speaker-labels"])


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("command", "answer"), [said for said in SAID if said[0] != "rescue gpu-2"]
)
def test_the_page_has_the_form_of_what_the_command_says(
    server: Server, command: str, answer: str
) -> None:
    app = make_app(server.url)
    assert form(answer) == form(run_with(app, *shlex.split(command)).output)
    app.close()


def test_the_page_shows_every_command() -> None:
    elsewhere = {"exporter", "flower", "scripts", "simulate"}  # these have pages of their own
    assert {command.split()[0] for command, _ in SAID} == set(minsched.commands) - elsewhere


def test_the_page_is_written_from_its_own_commands() -> None:
    did: list[str] = []
    page = writer.rewrite(PAGE, lambda command: f"said {command}\n", did.append)
    assert did == ["kill gpu-2", "stop cpu-1"]
    assert [command for command, _ in writer.dialogue(page)] == [
        command for command, _ in writer.dialogue(PAGE)
    ]
    assert all(answer == f"said {command}\n" for command, answer in writer.dialogue(page))
    assert re.sub(r"```console.*?```", "", page, flags=re.S) == re.sub(
        r"```console.*?```", "", PAGE, flags=re.S
    )


def test_two_runs_write_the_same_text() -> None:
    """Each time and rate of the page is the one that ``steady`` writes."""
    output = (
        "NODE   STATE  HEARD\n"
        "gpu-1  full   1.7 s\n"
        "gpu-2  dead   5.1 s\n"
        "Redis   0.31 ms away, 1.204 ms a script, 7 scripts/s, 88 commands/s\n"
    )
    assert writer.steady(output) == (
        "NODE   STATE  HEARD\n"
        "gpu-1  full   0.4 s\n"
        "gpu-2  dead   3.5 s\n"
        "Redis   0.06 ms away, 0.250 ms a script, 4 scripts/s, 150 commands/s\n"
    )
    for _, answer in writer.dialogue(PAGE):
        assert writer.steady(answer) == answer
