"""Reads the clock and the statistics of the Redis server."""

from __future__ import annotations

import time

from redis.exceptions import NoPermissionError

from ..core.reading import Reader
from .models import ServerView


def now(reader: Reader) -> int:
    """The server's clock, ms."""
    seconds, microseconds = reader.redis.time()
    return seconds * 1000 + microseconds // 1000


def server(reader: Reader) -> ServerView:
    """The round trip to the server, and the server's statistics if the client may read them."""
    began = time.perf_counter()
    reader.redis.ping()
    round_trip_ms = 1000 * (time.perf_counter() - began)
    try:
        commands = reader.redis.info("commandstats")
    except NoPermissionError:  # only an administrator may call INFO
        return ServerView(round_trip_ms=round_trip_ms)
    scripts = commands.get("cmdstat_evalsha", {})
    return ServerView(
        round_trip_ms=round_trip_ms,
        scripts=scripts.get("calls", 0),
        script_us=scripts.get("usec", 0),
        commands=sum(command["calls"] for command in commands.values()),
    )
