"""The contents of a database, for a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

_READS: dict[str, Callable[[Any, bytes], object]] = {
    "string": lambda pipe, key: pipe.get(key),
    "hash": lambda pipe, key: pipe.hgetall(key),
    "set": lambda pipe, key: pipe.smembers(key),
    "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    "list": lambda pipe, key: pipe.lrange(key, 0, -1),
    "stream": lambda pipe, key: pipe.xrange(key),
}


def contents(raw: redis.Redis) -> dict[bytes, object]:
    """Each key with its value. The client must not decode responses.

    Results of DUMP cannot be compared. They have the order of a hash table, and reads change it.
    """
    keys: list[bytes] = sorted(raw.keys("*"))
    with raw.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key)
        for key, kind in zip(keys, pipe.execute(), strict=True):
            _READS[kind.decode()](pipe, key)
        return dict(zip(keys, pipe.execute(), strict=True))
