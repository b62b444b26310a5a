"""Both sides of each comparison in docs/migration.md run."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from celery import _state

from celery_minsched.core.layout import LAYOUT

from ..support.fleet import ROOT
from ..support.server import Server

PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
#: The heading above each snippet, its side, and its text.
SNIPPETS = [
    (heading, text.partition("\n")[0].removeprefix("# "), text)
    for heading, section in re.findall(r"^### (.*?)$(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    for text in re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
]


def test_the_tests_know_all_snippets_of_the_page() -> None:
    assert len(SNIPPETS) == PAGE.count("```python")
    sides: dict[str, list[str]] = {}
    for heading, side, _ in SNIPPETS:
        sides.setdefault(heading, []).append(side)
    assert len(sides) == 6
    assert {tuple(names[:2]) for names in sides.values()} == {("before", "after")}


def test_both_sides_of_every_snippet_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippets of a side run in one namespace, from the top of the page to the bottom."""
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setattr(_state._tls, "current_app", None)  # the page creates an application
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    sides: dict[str, dict[str, Any]] = {}
    for heading, side, text in SNIPPETS:
        namespace = sides.setdefault(side.partition(",")[0], {"__name__": "snippet"})
        exec(compile(text, f"{heading}, {side}", "exec"), namespace)
    sys.modules.pop("locked_scheduler")


def test_the_page_has_each_call_of_the_locked_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from locked_scheduler import LockedScheduler  # type: ignore[import-not-found]

    short = {"register_node", "heartbeat", "dispatch", "complete"}  # for the benchmark
    calls = {name for name in vars(LockedScheduler) if not name.startswith("_")} - short
    assert {name for name in calls if name not in PAGE} == set()


def test_the_page_has_the_number_of_the_layout() -> None:
    assert f"This version has layout {LAYOUT}." in PAGE
