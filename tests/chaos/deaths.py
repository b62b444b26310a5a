"""The times at which each node was declared dead, read from the scheduler's events."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict

import redis
from redis.exceptions import RedisError

from celery_minsched.core.keys import Keys

logger = logging.getLogger(__name__)


class Deaths:
    """The times at which each node was declared dead, in seconds of the monotonic clock."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.of: dict[str, list[float]] = defaultdict(list)
        self._client = client
        self._events = keys("events")
        self._last = "0"
        self._offset = time.time() - time.monotonic()

    def update(self) -> None:
        """Read the events since the last call."""
        with contextlib.suppress(RedisError):
            for event_id, event in self._client.xrange(self._events, f"({self._last}"):
                self._last = event_id
                if event["kind"] == "node_died":
                    at = int(event_id.partition("-")[0]) / 1000 - self._offset
                    self.of[event["node"]].append(at)
                    logger.info("%s is declared dead", event["node"])
