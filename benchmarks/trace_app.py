"""The Celery application of the workers in a replay."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks import replay_task
from celery_minsched import MinSched


def make_app(broker: str, kind: str) -> Celery:
    """An application: ``ours`` uses celery_minsched, ``plain`` has Celery's defaults.

    ``tuned`` has the settings that Celery's manual recommends for long tasks. ``unprefetched`` is
    ``tuned`` with ``worker_disable_prefetch``. All but ``plain`` acknowledge late, because a task
    on a GPU should survive the death of its worker.
    """
    app = Celery("replay", broker=broker, set_as_current=False)
    if kind == "ours":
        MinSched(app)
    if kind in ("tuned", "unprefetched"):
        app.conf.worker_prefetch_multiplier = 1
    app.conf.worker_disable_prefetch = kind == "unprefetched"
    app.conf.task_acks_late = kind != "plain"
    return app


app = make_app(os.environ.get("REPLAY_BROKER", ""), os.environ.get("REPLAY_KIND", ""))
app.task(replay_task.work, name="replay.work", ignore_result=True)
