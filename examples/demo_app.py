"""The application of the demo: real work on the standard library's sources.

Two kinds of it, as "languages" that a source is turned into: ``py`` to ``xz`` is compressed (by
nodes of pool "pack"), ``py`` to ``words`` is indexed (pool "index"). To index a package is a
session: its files like to stay at one node, which has the package's index in memory.
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
words_lock = threading.Lock()


def step_back() -> None:
    """Let the nodes' own threads go first: here all "machines" share a few cores."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


@app.task
def compress(path: str) -> float:
    """How many times smaller a file gets, with the literal context that suits it best."""
    step_back()
    data = Path(path).read_bytes()
    preset = 6 | lzma.PRESET_EXTREME
    settings = [{"id": lzma.FILTER_LZMA2, "preset": preset, "lc": lc} for lc in range(5)]
    return len(data) / min(len(lzma.compress(data, filters=[one])) for one in settings)


@app.task
def index(path: str) -> int:
    """Count a file's names into its package's index; the size of that by now."""
    step_back()
    source = Path(path).read_text(encoding="utf-8", errors="replace")
    names: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME:
                names[token.string] += 1
    except (tokenize.TokenError, SyntaxError):  # sources that are wrong on purpose, for tests
        pass
    with words_lock:
        package = words[os.path.dirname(path)]
        package.update(names)
        return len(package)
