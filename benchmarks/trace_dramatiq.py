"""The actor of the dramatiq workers in a replay."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import replay_task


def make_broker(url: str, pools: list[str]) -> RedisBroker:
    """A broker with the actor and a queue for each pool."""
    broker = RedisBroker(url=url)
    for pool in pools:
        broker.declare_queue(pool)
    return broker


broker = make_broker(
    os.environ.get("REPLAY_BROKER", "redis://"), os.environ.get("REPLAY_POOLS", "").split()
)
work = dramatiq.actor(actor_name="work", broker=broker, max_retries=0)(replay_task.work)
