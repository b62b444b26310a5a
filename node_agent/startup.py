"""What a node does with Redis before its worker starts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time
from redis.exceptions import AuthenticationError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.utils import HIREDIS_AVAILABLE

from celery_minsched import MinimalSchedulerService, NodeIdInUse, RegisterNodeRequest
from celery_minsched.plugin.connection import client_of

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: How Redis refuses a write that it may accept later.
_REFUSED = (OutOfMemoryError, ReadOnlyError)


def when_redis_answers(app: Celery, call: Callable[[], T]) -> T:
    """The result of ``call``, as soon as Redis is up, has loaded its data and accepts writes.

    Waits as long as Celery's worker does, by ``broker_connection_retry_on_startup`` and
    ``broker_connection_max_retries``. Raises the error of the last call.
    """
    conf = app.conf
    waits = conf.broker_connection_retry_on_startup
    if waits is None:
        waits = conf.broker_connection_retry

    def on_error(exc: Exception, intervals: Iterator[float], retries: int) -> float:
        if isinstance(exc.__cause__ or exc, AuthenticationError):  # a retry would fail too
            raise exc
        pause = next(intervals)
        logger.warning("Redis is not ready yet: %s Trying again in %.0f s.", exc, pause)
        return pause

    return retry_over_time(  # type: ignore[no-any-return]
        call,
        (OperationalError, RedisConnectionError, RedisTimeoutError, *_REFUSED),
        errback=on_error,
        max_retries=(conf.broker_connection_max_retries or None) if waits else 0,
        interval_start=1,
        interval_step=1,
        interval_max=4,
    )


def client_of_pulse(app: Celery, scheduler: MinimalSchedulerService) -> redis.Redis:
    """The client of the heartbeats. Its timeout is shorter than the silence after which a node is
    dead, so a connection that is lost without an error does not make the node dead.
    """
    return client_of(app, scheduler.settings.database_url, scheduler.settings.pulse_timeout)


def take_id(scheduler: MinimalSchedulerService, registration: RegisterNodeRequest) -> None:
    """Register the node, not yet online, under its id.

    If the id belongs to a process that has crashed, wait until that process is dead. Raises
    :class:`NodeIdInUse` as soon as that process sends a heartbeat.
    """
    # Shorter than the interval: looks in step with the heartbeats would never see a new one.
    pause = scheduler.settings.heartbeat_interval / 3
    last_age = -1
    while True:
        try:
            scheduler.register_node(registration)
            return
        except NodeIdInUse as exc:
            age = int(str(exc.values["age_ms"]))
            if age < last_age:
                raise
            if last_age < 0:
                logger.warning("%s Waiting to see whether that process is alive.", exc)
            last_age = age
            time.sleep(pause)


def warn_of_eviction(scheduler: MinimalSchedulerService) -> None:
    """Warn if Redis may delete keys when its memory is full: jobs would be lost unreported."""
    try:
        policy = scheduler.redis.info("memory").get("maxmemory_policy", "noeviction")
    except ResponseError:  # the user may not run INFO
        return
    if policy != "noeviction":
        logger.warning(
            "Redis has maxmemory-policy %s: when its memory is full, it deletes jobs and messages "
            "without an error. Set the policy to noeviction.",
            policy,
        )


def log_parser() -> None:
    """Log which parser reads Redis' answers. hiredis is faster."""
    parser = "hiredis" if HIREDIS_AVAILABLE else "redis-py. The package hiredis is faster"
    logger.info("Redis' answers are parsed by %s", parser)
