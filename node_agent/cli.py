"""``node-agent``: one node of the fleet. What it does not know it hands on to ``celery worker``."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
import redis
from billiard import cpu_count
from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from kombu.utils.functional import retry_over_time
from pydantic import ValidationError
from redis.exceptions import (
    AuthenticationError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_minsched import (
    MinimalSchedulerService,
    MinSched,
    NodeIdInUse,
    RegisterNodeRequest,
    SchedulerError,
)
from celery_minsched.core.describe import sentence_of
from celery_minsched.core.keys import queue_name
from celery_minsched.core.printing import printable
from celery_minsched.plugin.connection import client_of

from .options import check_options, check_pool, prepare_command, run_worker, runs_in_event_loop
from .requeue import take_over
from .worker import prepare

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: How Redis answers a write that it accepts at another time.
_REFUSED = (OutOfMemoryError, ReadOnlyError)


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "auto_envvar_prefix": "NODE_AGENT",
    },
    epilog="Each option may come from the environment: NODE_AGENT_NODE_ID=gpu-1, "
    "NODE_AGENT_POOL='asr mt'. Any other option goes to celery worker, see celery worker --help.",
)
@click.option("-A", "--app", "app_name", required=True, envvar=["NODE_AGENT_APP", "CELERY_APP"],
              help="The Celery application, as in celery -A.")  # fmt: skip
@click.option("--node-id", required=True, help="Name of this node, unique in the fleet.")
@click.option("--slots", type=click.IntRange(min=1), help="Jobs at a time. Default: concurrency.")
@click.option("--pool", "pools", multiple=True, required=True, help="A pool this node is in.")
@click.option("--lang", "langs", multiple=True, metavar="SRC:TGT",
              help="A language pair its pools serve.")  # fmt: skip
@click.option("--capability", "capabilities", multiple=True, help="What else this node can do.")
@click.option("-c", "--concurrency",
              help="As in celery worker. Default: slots, or else worker_concurrency.")  # fmt: skip
@click.option("--autoscale", metavar="MAX,MIN", help="As in celery worker; slots default to MAX.")
@click.option("-P", "worker_pool", default="prefork", help="Pool implementation, as in celery -P.")
@click.pass_context
def main(
    context: click.Context,
    app_name: str,
    node_id: str,
    slots: int | None,
    pools: tuple[str, ...],
    langs: tuple[str, ...],
    capabilities: tuple[str, ...],
    concurrency: str | None,
    autoscale: str | None,
    worker_pool: str,
) -> None:
    """Run a Celery worker as a node, which takes the jobs that the scheduler gives to it.

    \b
    node-agent -A speech --node-id gpu-1 --slots 4 --pool asr --lang zh:en --capability whisper
    """
    app = find_app(app_name)
    plugin = _plugin(app, app_name)
    prepare_command(app)
    if runs_in_event_loop(check_pool(app, worker_pool)):
        concurrency, autoscale = "1", None  # whatever was given
    check_options(app, context.args)
    if not autoscale and not concurrency:
        concurrency = str(slots or app.conf.worker_concurrency or cpu_count())
    slots = slots or _default_slots(concurrency, autoscale)
    registration = _registration(node_id, slots, pools, langs, capabilities)
    with _explained():
        when_redis_answers(app, lambda: take_id(plugin.scheduler, registration))
        when_redis_answers(app, lambda: warn_of_eviction(plugin.scheduler))
        pulse_client = when_redis_answers(app, lambda: client_of_pulse(app, plugin.scheduler))
    node = prepare(app, plugin, registration, pulse_client)
    try:
        with _explained():
            when_redis_answers(app, lambda: take_over(plugin, node_id))
        run_worker(
            app,
            [
                *("-n", f"celery@{node_id}", "-Q", queue_name(node_id)),
                *("-P", worker_pool, "--without-gossip"),  # its queue has a name that none finds
                *(("--concurrency", concurrency) if concurrency else ()),
                *(("--autoscale", autoscale) if autoscale else ()),
                *context.args,
            ],
        )
    finally:
        node.stop()


@contextmanager
def _explained() -> Iterator[None]:
    """What Redis or the scheduler refuses is an error message of the command."""
    try:
        yield
    except (SchedulerError, ImproperlyConfigured, OperationalError, RedisError) as exc:
        raise click.ClickException(printable(str(exc), keep="\n")) from exc


def _default_slots(concurrency: str | None, autoscale: str | None) -> int:
    """As many as the worker runs at a time."""
    if autoscale:
        return max(int(part) for part in autoscale.split(","))
    if concurrency == "auto":
        raise click.UsageError("concurrency 'auto' does not say how many slots: give --slots too")
    return int(concurrency or cpu_count())


def _registration(
    node_id: str,
    slots: int,
    pools: tuple[str, ...],
    langs: tuple[str, ...],
    capabilities: tuple[str, ...],
) -> RegisterNodeRequest:
    pairs = [lang.partition(":") for lang in langs]
    for lang, (src, _, tgt) in zip(langs, pairs, strict=True):
        if not src or not tgt:
            raise click.BadParameter(
                f"{lang!r} is no language pair such as zh:en", param_hint="--lang"
            )
    offers = [{"id": pool, "langs": [[src, tgt] for src, _, tgt in pairs]} for pool in pools]
    try:
        return RegisterNodeRequest(
            node_id=node_id,
            max_jobs=slots,
            cap_json=json.dumps(list(capabilities)),
            pools_json=json.dumps(offers),
            online=False,
        )
    except ValidationError as exc:
        raise click.UsageError(sentence_of(exc)) from exc


def _plugin(app: Celery, name: str) -> MinSched:
    plugin = getattr(app, "minsched", None)
    if not isinstance(plugin, MinSched):
        raise click.ClickException(
            f"the application {name!r} has no scheduler: write MinSched(app) below its Celery(...)"
        )
    return plugin


def when_redis_answers(app: Celery, call: Callable[[], T]) -> T:
    """What ``call`` returns, as soon as Redis is up, has loaded its data and accepts writes.

    It waits as long as Celery's worker does: ``broker_connection_retry_on_startup`` and
    ``broker_connection_max_retries`` say so. Raises what the last call raised.
    """
    conf = app.conf
    waits = conf.broker_connection_retry_on_startup
    if waits is None:
        waits = conf.broker_connection_retry

    def on_error(exc: Exception, intervals: Iterator[float], retries: int) -> float:
        # Another try changes nothing.
        if isinstance(exc.__cause__ or exc, AuthenticationError):
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
    """The client of the heartbeats. A connection that is lost in silence costs less time than a
    death takes.
    """
    return client_of(app, scheduler.settings.database_url, scheduler.settings.pulse_timeout)


def take_id(scheduler: MinimalSchedulerService, registration: RegisterNodeRequest) -> None:
    """Register the node, not yet online, under its id.

    After a crash the id is still held by the process before: wait until it lapses. Raises
    :class:`NodeIdInUse` as soon as that process is seen to live.
    """
    # Not the interval itself: whoever looks in step with the heartbeats never sees one come.
    pause = scheduler.settings.heartbeat_interval / 3
    seen_age = -1
    while True:
        try:
            scheduler.register_node(registration)
            return
        except NodeIdInUse as exc:
            age = int(str(exc.values["age_ms"]))
            if age < seen_age:
                raise
            if seen_age < 0:
                logger.warning("%s Waiting to see whether it is still there.", exc)
            seen_age = age
            time.sleep(pause)


def warn_of_eviction(scheduler: MinimalSchedulerService) -> None:
    """Say so where Redis may throw keys away for want of memory: jobs would vanish unseen."""
    try:
        policy = scheduler.redis.info("memory").get("maxmemory_policy", "noeviction")
    except ResponseError:  # its user may not ask
        return
    if policy != "noeviction":
        logger.warning(
            "Redis has maxmemory-policy %s: when memory is short it throws away jobs and messages, "
            "and nobody is told. Set it to noeviction.",
            policy,
        )
