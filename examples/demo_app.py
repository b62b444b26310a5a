"""The application of the demo: real work on the sources of the standard library.

The language pairs stand for two kinds of work. The nodes of pool "pack" compress a source
(``py`` to ``xz``). The nodes of pool "index" index it (``py`` to ``words``). Each package is a
session, so its files prefer the node that has the index of the package in memory.
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

#: The index of each package, in the memory of this process. A session that stays here reuses it.
words: defaultdict[str, Counter[str]] = defaultdict(Counter)
words_lock = threading.Lock()


def step_back() -> None:
    """Let the other threads of the nodes run first, because all nodes share a few cores."""
    if sys.platform == "linux":  # here each thread has its own priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


@app.task
def compress(path: str) -> float:
    """The compression ratio of a file, with the best number of literal context bits."""
    step_back()
    data = Path(path).read_bytes()
    preset = 6 | lzma.PRESET_EXTREME
    settings = [{"id": lzma.FILTER_LZMA2, "preset": preset, "lc": lc} for lc in range(5)]
    return len(data) / min(len(lzma.compress(data, filters=[setting])) for setting in settings)


@app.task
def index(path: str) -> int:
    """Count the names of a file in the index of its package. Returns the size of this index."""
    step_back()
    source = Path(path).read_text(encoding="utf-8", errors="replace")
    names: Counter[str] = Counter()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NAME:
                names[token.string] += 1
    except (tokenize.TokenError, SyntaxError):  # some sources for tests are invalid on purpose
        pass
    with words_lock:
        package = words[os.path.dirname(path)]
        package.update(names)
        return len(package)
