"""The result backend of the test processes. It polls for results."""

from __future__ import annotations

from typing import Any

from celery.backends.base import SyncBackendMixin
from celery.backends.redis import RedisBackend

_INTERVAL = 0.02  # seconds


class PolledBackend(SyncBackendMixin, RedisBackend):
    """``get()`` of Celery's Redis backend (5.7) waits for a message instead. After a restart of
    Redis or a broken connection, the message may never come.
    """

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Subscribe to nothing."""

    def wait_for(self, task_id: str, interval: float = 0, **options: Any) -> Any:
        return super().wait_for(task_id, interval=_INTERVAL, **options)

    def get_many(self, task_ids: Any, interval: float = 0, **options: Any) -> Any:
        return super().get_many(task_ids, interval=_INTERVAL, **options)
