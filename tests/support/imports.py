"""The imports of the packages' modules, read from their source.

Lazy and type-only imports count, and so does ``importlib.import_module`` with a literal name.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
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

    def _read(self, name: str, path: Path) -> Iterator[str]:
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    relative = "." * level + (module or "")
                    base = importlib.util.resolve_name(relative, package)
                    for alias in names:
                        submodule = f"{base}.{alias.name}"
                        yield submodule if submodule in self._modules else base
                case ast.Call(
                    func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                    args=[ast.Constant(value=str(literal)), *_],
                ):
                    yield importlib.util.resolve_name(literal, package)
