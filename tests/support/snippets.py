"""Runs the Python of a page from top to bottom.

``python -m tests.support.snippets PAGE`` runs blocks of ``python`` as a module's code. It types
blocks of ``pycon`` at the prompt and compares the output with the page. All blocks share one
namespace.
"""

from __future__ import annotations

import doctest
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(python|pycon)\b[^\n]*\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each block of Python."""
    text = page.read_text(encoding="utf-8")
    for block in _FENCE.finditer(text):
        yield block[1], block[2], text.count("\n", 0, block.start(2))


def run(page: Path) -> bool:
    """Run a page. Returns true if the output equals the page. Prints the differences."""
    namespace: dict[str, Any] = {"__name__": page.stem.lower()}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for kind, text, line in blocks(page):
        if kind == "python":
            exec(compile("\n" * line + text, str(page), "exec"), namespace)
        else:
            parsed = doctest.DocTestParser().get_doctest(
                text, namespace, page.name, str(page), line
            )
            runner.run(parsed, clear_globs=False)
            namespace.update(parsed.globs)
    return not runner.summarize(verbose=False).failed


def main(args: list[str]) -> int:
    """Run the program. Returns its exit code."""
    return int(not run(Path(args[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
