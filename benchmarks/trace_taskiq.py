"""The task of the replay's workers, if taskiq runs them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from taskiq_redis import RedisStreamBroker

from benchmarks import replay_task


def make_broker(url: str, pools: Sequence[str]) -> RedisStreamBroker:
    """A broker that acknowledges messages, with a stream for each pool."""
    streams: dict[str, str | int] = dict.fromkeys(
        pools[1:], ">"
    )  # of the consumer group, messages that no worker has
    # By default a worker takes 100 messages at once, and other workers have no work.
    return RedisStreamBroker(url, queue_name=pools[0], additional_streams=streams, xread_count=1)


broker = make_broker(
    os.environ.get("REPLAY_BROKER", "redis://"), os.environ.get("REPLAY_POOLS", "a").split()
)
work = broker.register_task(replay_task.work, task_name="work")
