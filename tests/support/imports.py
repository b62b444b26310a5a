"""The imports of the packages' modules, read from their source.

Lazy and type-only imports count, and so does ``importlib.import_module`` with a literal name.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .fleet import ROOT

PACKAGES = ("celery_minsched", "node_agent")


def source_files(*folders: str) -> list[Path]:
    """The Python files below these folders of the repository."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class ImportGraph:
    """For each module of the packages: the full names of what it imports."""

    def __init__(self) -> None:
        paths = {module_name(path): path for path in source_files(*PACKAGES)}
        self._modules = set(paths)
        self.imports = {name: set(self._read(name, path)) for name, path in paths.items()}
        self._defined = {name: set(_names_defined(path)) for name, path in paths.items()}

    def indirect(self, path: Path) -> set[str]:
        """The names that a file imports from a module that itself imports them."""
        return {
            f"{base}.{name}"
            for base, name in self._names_imported(module_name(path), path)
            if base in self._modules - {"celery_minsched"}
            and f"{base}.{name}" not in self._modules
            and name not in self._defined[base]
        }

    def circles(self) -> set[str]:
        """The modules that import themselves through other modules."""
        return {name for name in self._modules if name in self._reachable(name)}

    def _reachable(self, name: str) -> set[str]:
        reached: set[str] = set()
        ahead = [name]
        while ahead:
            targets = self.imports[ahead.pop()] & self._modules - reached
            reached |= targets
            ahead += targets
        return reached

    def _read(self, module: str, path: Path) -> Iterator[str]:
        for base, name in self._names_imported(module, path):
            submodule = f"{base}.{name}"
            yield submodule if submodule in self._modules else base
        for node in _nodes(path):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.Call(
                    func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                    args=[ast.Constant(value=str(literal)), *_],
                ):
                    yield importlib.util.resolve_name(literal, _package(module, path))

    @staticmethod
    def _names_imported(module: str, path: Path) -> Iterator[tuple[str, str]]:
        """Module and name of each ``from module import name``."""
        for node in _nodes(path):
            if isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(relative, _package(module, path))
                for alias in node.names:
                    yield base, alias.name


def _package(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _names_defined(path: Path) -> Iterator[str]:
    for node in _nodes(path):
        match node:
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
