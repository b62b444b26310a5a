"""The task of the replay's workers, if taskiq runs them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from taskiq import AsyncTaskiqDecoratedTask
from taskiq_redis import RedisStreamBroker

from benchmarks import replay_task

Task = AsyncTaskiqDecoratedTask[[int, float, str], None]


def make_broker(url: str, pools: Sequence[str]) -> RedisStreamBroker:
    """A broker that acknowledges messages, with a stream for each pool."""
    # ">" requests the messages that no worker of the consumer group has received.
    streams: dict[str, str | int] = dict.fromkeys(pools[1:], ">")
    # By default a worker takes 100 messages at once, and other workers have no work.
    return RedisStreamBroker(url, queue_name=pools[0], additional_streams=streams, xread_count=1)


def register(broker: RedisStreamBroker) -> Task:
    """Register the task at a broker."""

    # taskiq renames the function, and RQ uses its name.
    def work(number: int, seconds: float, session: str = "") -> None:
        replay_task.work(number, seconds, session)

    return broker.register_task(work, task_name="work")


broker = make_broker(
    os.environ.get("REPLAY_BROKER", "redis://"), os.environ.get("REPLAY_POOLS", "a").split()
)
work = register(broker)
