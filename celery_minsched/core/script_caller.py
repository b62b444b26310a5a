"""Calls scripts with the fleet's times. The base of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import redis

from . import scripts, times
from .keys import Keys
from .paging import Args, pages
from .settings import Settings


class ScriptCaller:
    """Calls scripts on one Redis database.

    ``redis`` is a client of any kind of connection. It may decode responses or not. ``keys`` are
    for a broker that has a key prefix or its own priority steps.
    """

    def __init__(
        self, redis: redis.Redis, settings: Settings | None = None, keys: Keys | None = None
    ) -> None:
        self.redis = redis
        self._own = self.settings = settings or Settings()
        self._fleet: str | None = None
        self.keys = keys or Keys(self.settings.key_prefix)

    @cached_property
    def _times(self) -> str:
        """The times of this process, for scripts that run before a node has registered.

        The first use looks up the fleet's times.
        """
        self._follow(times.look_up(self.redis, self.keys))
        return times.to_text(self._own)

    def _follow(self, fleet: str | None) -> None:
        """Use the fleet's times, and log a warning if they differ from this process's settings."""
        if fleet != self._fleet:
            self._fleet = fleet
            self.settings = times.settings_of_fleet(self._own, fleet)
            times.warn_of_differences(self._own, self.settings)

    def follow_fleet(self) -> None:
        """Look up the fleet's times now instead of at the first call."""
        self._times  # noqa: B018 - looked up once

    def _call(self, name: str, /, **arguments: Any) -> list[Any]:
        return scripts.call(self.redis, self.keys, name, times=self._times, **arguments)

    def _call_many(self, name: str, fields: Sequence[str], rows: Sequence[Args]) -> list[list[Any]]:
        """The answers of a script for each row of arguments. One round trip runs a page of rows."""
        return [answer for page in pages(rows) for answer in self._call_page(name, fields, page)]

    def _call_page(self, name: str, fields: Sequence[str], page: Sequence[Args]) -> list[list[Any]]:
        rows = [(self._times, *row) for row in page]
        return scripts.call_many(self.redis, self.keys, name, ("times", *fields), rows)
