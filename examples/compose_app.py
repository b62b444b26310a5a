"""The producer of docker-compose.yml: it gives the demo's work to the nodes, round after round."""

from __future__ import annotations

import sysconfig
import time
from collections import Counter
from itertools import count
from pathlib import Path

from celery import Signature
from demo_app import app, compress, index

SOURCES = Path(sysconfig.get_path("stdlib"))
ALIVE = Path("/tmp/producer-alive")  # touched at each result: the health check looks at its age
PAUSE = 5.0  # seconds between two rounds


def work() -> list[Signature]:
    """Two jobs for each source file of the standard library; a directory's are a session."""
    return [
        task.s(str(path)).set(minsched={"session_id": str(path.parent.relative_to(SOURCES))})
        for path in sorted(SOURCES.rglob("*.py"))
        if "site-packages" not in path.parts
        for task in (compress, index)
    ]


def do_round(number: int) -> None:
    """Send all the work, wait for it, and say who did it."""
    began = time.monotonic()
    results = app.minsched.dispatch_many(work())
    for result in results:
        result.get()
        ALIVE.touch()
    print(f"round {number}: {len(results)} jobs in {time.monotonic() - began:.1f} s")
    done = Counter(app.minsched.where(result.id).node_id for result in results)
    for node in app.minsched.views.nodes():
        pool, slots = ", ".join(node.pools), node.max_jobs
        print(f"  {node.node_id:6} {pool:5} {slots} slots {done[node.node_id]:5} jobs")


if __name__ == "__main__":
    for number in count(1):
        do_round(number)
        time.sleep(PAUSE)
