"""The producer of docker-compose.yml. It sends the work of the demo to the nodes in rounds."""

from __future__ import annotations

import sysconfig
import time
from collections import Counter
from itertools import count
from pathlib import Path

from celery import Signature
from demo_app import app, compress, index

SOURCES = Path(sysconfig.get_path("stdlib"))
ALIVE = Path("/tmp/producer-alive")  # the time of the last result, for the health check
PAUSE = 5.0  # seconds between two rounds


def work() -> list[Signature]:
    """Two jobs for each source file in packages of the standard library. A package is a session."""
    return [
        task.s(str(path)).set(minsched={"session_id": path.parent.name})
        for path in sorted(SOURCES.glob("*/*.py"))
        if path.parent.name != "site-packages"
        for task in (compress, index)
    ]


def do_round(number: int) -> None:
    """Send all the work, wait for it, and print the work of each node."""
    began = time.monotonic()
    results = app.minsched.dispatch_many(work())
    for result in results:
        result.get(propagate=False)
        ALIVE.touch()
    seconds = time.monotonic() - began
    ended, jobs, busy = Counter[str](), Counter[str](), Counter[str]()
    for job in (app.minsched.find_job(result.id) for result in results):
        ended[job.status] += 1
        jobs[job.node_id] += 1
        busy[job.node_id] += job.ended_ts - job.started_ts
    endings = ", ".join(f"{many} {status}" for status, many in sorted(ended.items()))
    print(f"round {number}: {len(results)} jobs in {seconds:.1f} s, {endings}")
    for node in app.minsched.views.nodes():
        name, pool = node.node_id, ", ".join(node.pools)
        print(
            f"  {name:6}  pool {pool:5}  {node.max_jobs} slots  {jobs[name]:4} jobs  "
            f"slots busy for {busy[name] / 1000:.1f} s"
        )


if __name__ == "__main__":
    for number in count(1):
        do_round(number)
        time.sleep(PAUSE)
