"""The application of the replay's workers, whose task stands for seconds of a GPU's work."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_minsched import MinSched


def make_app(broker: str, kind: str) -> Celery:
    """``ours``; ``plain`` with Celery's defaults; ``tuned`` as its manual says for long tasks. Ours
    acknowledges late as ``tuned`` does: a task of a GPU should survive its worker.
    """
    app = Celery("replay", broker=broker, set_as_current=False)
    if kind == "ours":
        MinSched(app)
    if kind == "tuned":
        app.conf.worker_prefetch_multiplier = 1
    app.conf.task_acks_late = kind != "plain"
    return app


app = make_app(os.environ.get("REPLAY_BROKER", ""), os.environ.get("REPLAY_KIND", ""))


@app.task(name="replay.work", ignore_result=True)  # type: ignore[untyped-decorator]
def work(number: int, seconds: float) -> None:
    """Take so long, and note when that began and ended."""
    began = time.time()
    time.sleep(seconds)
    line = f"{number} {began:.6f} {time.time():.6f}\n"
    with open(os.environ["REPLAY_NOTES"], "a", encoding="ascii") as notes:  # one write, at the end
        notes.write(line)
