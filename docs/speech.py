"""The application of docs/operations.md. Its tasks sleep for as long as the page needs."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_minsched import MinSched

app = Celery("speech", broker=os.environ.get("OPERATIONS_BROKER", "redis://localhost:6379/0"))
app.conf.task_acks_late = True  # a task of a dead node runs again
MinSched(app)


@app.task(minsched={"pool": "asr"})
def transcribe(seconds: float) -> None:
    """Work on a recording."""
    time.sleep(seconds)


@app.task(minsched={"src_lang": "zh", "tgt_lang": "en"})
def translate(seconds: float) -> None:
    """Work on a text."""
    time.sleep(seconds)
