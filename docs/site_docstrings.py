"""An extension of griffe, which mkdocstrings uses to read docstrings for the API reference.

A Sphinx role (``:class:`X```) becomes code. A comment ``#:`` before a field becomes its docstring.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class OurDocstrings(griffe.Extension):
    """Turns docstrings into Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.is_attribute and not obj.docstring:
            comment = _comment_before(obj)
            obj.docstring = griffe.Docstring(comment, parent=obj) if comment else None
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_as_code, obj.docstring.value)


def _as_code(role: re.Match[str]) -> str:
    return f"`{role[1].rpartition('.')[2]}`"


def _comment_before(obj: griffe.Object) -> str:
    lines: list[str] = []
    if obj.lineno is None:
        return ""
    source = obj.lines_collection[obj.filepath]
    for line in reversed(source[: obj.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        lines.insert(0, line.strip().removeprefix("#:").strip())
    return " ".join(lines)
