"""The layout of the source: allowed imports, and the limits of files and functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .support.fleet import ROOT
from .support.imports import PACKAGES, ImportGraph, module_name, source_files

#: The packages that each package may import, apart from itself.
ALLOWED = {
    "celery_minsched.core": set[str](),
    "celery_minsched.monitor": {"core"},
    "celery_minsched.simulation": {"core"},
    "celery_minsched.plugin": {"core", "monitor"},
    "celery_minsched.consistency": {"core", "monitor", "plugin"},
    "celery_minsched.migration": {"core", "monitor", "plugin", "consistency"},
}
ALLOWED["celery_minsched.web"] = {name.rpartition(".")[2] for name in ALLOWED}
ALLOWED["celery_minsched.cli"] = ALLOWED["celery_minsched.web"] | {"web"}
WITHOUT_CELERY = ("celery_minsched.core", "celery_minsched.monitor")
CELERY = {"billiard", "celery", "kombu", "vine"}

MAX_FILE, MAX_FUNCTION, MAX_INCLUDE = 400, 50, 200
FOLDERS = (*PACKAGES, "benchmarks", "docs", "examples", "tests")


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph()


def package_of(module: str) -> str:
    """The package of a module: two names below celery_minsched, otherwise one name."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "celery_minsched" else 1])


def is_allowed(module: str, target: str) -> bool:
    source, package = package_of(module), package_of(target)
    if source == package:
        return True
    if source in WITHOUT_CELERY and package in CELERY:
        return False
    if package.split(".")[0] not in PACKAGES:
        return True
    if source == "celery_minsched":
        return package.startswith("celery_minsched.")
    if source == "node_agent":
        return package in ("celery_minsched", "celery_minsched.core", "celery_minsched.plugin")
    return package in {f"celery_minsched.{name}" for name in ALLOWED[source]}


def test_every_import_follows_an_allowed_arrow(graph: ImportGraph) -> None:
    wrong = {
        f"{module} -> {target}"
        for module, targets in graph.imports.items()
        for target in targets
        if not is_allowed(module, target)
    }
    assert wrong == set()


def test_no_module_imports_itself_through_others(graph: ImportGraph) -> None:
    assert graph.circles() == set()


def test_every_name_is_imported_from_the_module_that_defines_it(graph: ImportGraph) -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in source_files(*FOLDERS)
        for name in graph.indirect(path)
    }
    assert wrong == set()


def test_the_package_celery_minsched_has_only_names() -> None:
    tree = ast.parse((ROOT / "celery_minsched/__init__.py").read_text(encoding="utf-8"))
    kinds = {type(statement) for statement in tree.body[1:]}
    assert kinds == {ast.ImportFrom, ast.Assign}


def test_no_test_module_imports_another() -> None:
    wrong = {
        f"{module_name(path)} -> {name}"
        for path in source_files("tests")
        for name in imported_test_modules(path)
    }
    assert wrong == set()


def imported_test_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in (node.module or "", *(alias.name for alias in node.names))
    }
    return {name for name in imported if name.split(".")[-1].startswith("test_")}


def test_no_file_is_too_long() -> None:
    limits = [(path, MAX_FILE) for path in source_files(*FOLDERS)]
    limits += [(path, MAX_INCLUDE) for path in ROOT.glob("celery_minsched/lua/include/*.lua")]
    long = {
        f"{path.relative_to(ROOT)}"
        for path, limit in limits
        if len(path.read_text(encoding="utf-8").splitlines()) > limit
    }
    assert long == set()


def test_no_function_is_too_long() -> None:
    long = {
        f"{path.relative_to(ROOT)} {node.name}"
        for path in source_files(*FOLDERS)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION
    }
    assert long == set()
