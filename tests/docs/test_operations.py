"""docs/operations.md shows the current output of the commands."""

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
EXAMPLES = [
    (command.partition(" minsched ")[2], answer)
    for command, answer in writer.dialogue(PAGE)
    if " minsched " in command and " inspect " not in command
]


def form(answer: str) -> list[list[str]]:
    """The headings of the tables in an output. If there is no table, the first word."""
    lines = [line.split() for line in answer.splitlines()]
    headings = [line for line in lines if len(line) > 2 and all(map(str.isupper, line))]
    return headings or [[re.sub(r"\d", "0", word) for word in lines[0][:1]]]


@pytest.fixture
def fleet(desk: Desk) -> None:
    """The nodes and jobs of the page."""
    desk.node("gpu-1", 2, caps=["whisper-large"])
    desk.node("gpu-2", 2)
    desk.node("cpu-1", 3, [{"id": "mt", "langs": [["zh", "en"]]}])
    for task_id in ("a", "b", writer.PLACED, "d"):
        desk.dispatch(task_id=task_id)
    desk.park(task_id=writer.WAITS)
    desk.park(task_id=writer.IMPOSSIBLE, capabilities=["speaker-labels"])


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("command", "answer"), [example for example in EXAMPLES if example[0] != "rescue gpu-2"]
)
def test_the_output_on_the_page_has_the_form_of_the_command_s_output(
    server: Server, command: str, answer: str
) -> None:
    app = make_app(server.url)
    assert form(answer) == form(run_with(app, *shlex.split(command)).output)
    app.close()


def test_the_page_shows_every_command() -> None:
    elsewhere = {"exporter", "flower", "scripts", "simulate"}  # on other pages
    assert {command.split()[0] for command, _ in EXAMPLES} == set(minsched.commands) - elsewhere


def test_the_page_is_generated_from_its_own_commands() -> None:
    actions: list[str] = []
    page = writer.rewrite(PAGE, lambda command: f"output of {command}\n", actions.append)
    assert actions == ["kill gpu-2", "stop cpu-1"]
    assert [command for command, _ in writer.dialogue(page)] == [
        command for command, _ in writer.dialogue(PAGE)
    ]
    assert all(answer == f"output of {command}\n" for command, answer in writer.dialogue(page))
    assert re.sub(r"```console.*?```", "", page, flags=re.S) == re.sub(
        r"```console.*?```", "", PAGE, flags=re.S
    )


def test_two_runs_write_the_same_text() -> None:
    """``steady`` replaces the times and rates. The page has only these replacements."""
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
