"""The application that the nodes of the tests run: a task for each way in which a task can end."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

from celery_minsched import MinSched

url = os.environ["MINSCHED_TEST_BROKER"]
app = Celery("tests", broker=url, backend=url)
MinSched(app)


def scheduled(**options: Any) -> Any:
    """A bound task of pool "asr"."""
    return app.task(bind=True, minsched={"pool": "asr"}, **options)


@scheduled()
def where_am_i(self: Any, pause: float = 0.0) -> dict[str, Any]:
    """What the task sees of its own place."""
    time.sleep(pause)
    return {"minsched": self.request.minsched, "hostname": self.request.hostname}
