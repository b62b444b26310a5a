"""The application of the demo: real work on the standard library's sources.

Two kinds of it, as "languages" that a source is turned into: ``py`` to ``xz`` is compressed (by
nodes of pool "pack"), ``py`` to ``words`` is indexed (pool "index"). Each package is a session, so
that its files like to stay at one node, which has the package's index in memory.
"""

from __future__ import annotations

import io
import lzma
import os
import sys
import threading
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

from celery import Celery

from celery_minsched import MinSched

url = os.environ.get("DEMO_BROKER", "redis://localhost:6379/0")
app = Celery("demo", broker=url, backend=url)
app.conf.minsched_routes = {
    "demo_app.compress": {"src_lang": "py", "tgt_lang": "xz"},
    "demo_app.index": {"src_lang": "py", "tgt_lang": "words"},
}
MinSched(app)

#: What this process knows of each package: the gain of a session that stays where it is.
words: defaultdict[str, Counter[str]] = defaultdict(Counter)


def step_back() -> None:
    """Let the nodes' own threads go first: here all "machines" share a few cores."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


@app.task
def compress(path: str) -> float:
    """How many times smaller a file gets."""
    step_back()
    data = Path(path).read_bytes()
    return len(data) / len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) if data else 1.0


@app.task
def index(path: str) -> int:
    """Count a file's names into its package's index; the size of that by now."""
    step_back()
    package = words[os.path.dirname(path)]
    source = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME:
                package[token.string] += 1
    except (tokenize.TokenError, SyntaxError):  # sources that are wrong on purpose, for tests
        pass
    return len(package)
