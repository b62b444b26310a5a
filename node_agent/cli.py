"""``node-agent``: runs one node of the fleet. It passes unknown options to ``celery worker``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import click
from billiard import cpu_count
from celery import Celery
from celery.app.utils import find_app
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from pydantic import ValidationError
from redis.exceptions import RedisError

from celery_minsched import MinSched, RegisterNodeRequest, SchedulerError
from celery_minsched.core.describe import sentence_of
from celery_minsched.core.keys import queue_name
from celery_minsched.core.printing import printable

from .options import check_options, check_pool, prepare_command, run_worker, runs_in_event_loop
from .requeue import take_over
from .startup import client_of_pulse, take_id, warn_of_eviction, when_redis_answers
from .worker import prepare

_option = partial(click.option, show_envvar=True)


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "auto_envvar_prefix": "NODE_AGENT",
    },
    epilog="An option that may be given several times takes its values from the environment "
    "separated by spaces: NODE_AGENT_POOLS='asr mt'. Any other option goes to celery worker, see "
    "celery worker --help.",
)
@_option("-A", "--app", "app_name", required=True, envvar=["NODE_AGENT_APP", "CELERY_APP"],
         help="The Celery application, as in celery -A.")  # fmt: skip
@_option("--node-id", required=True, help="Name of this node, unique in the fleet.")
@_option("--slots", type=click.IntRange(min=1),
         help="Number of jobs at a time. Default: the concurrency.")  # fmt: skip
@_option("--pool", "pools", multiple=True, required=True, help="A pool of this node.")
@_option("--lang", "langs", multiple=True, metavar="SRC:TGT",
         help="A language pair that its pools serve.")  # fmt: skip
@_option("--capability", "capabilities", multiple=True, help="A capability of this node.")
@_option("-c", "--concurrency",
         help="As in celery worker. Default: the slots, or worker_concurrency.")  # fmt: skip
@_option("--autoscale", metavar="MAX,MIN", help="As in celery worker. The slots default to MAX.")
@_option("-P", "worker_pool", default="prefork", help="Pool implementation, as in celery -P.")
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
    """Run a Celery worker as a node. It runs the jobs that the scheduler assigns to it.

    \b
    node-agent -A speech --node-id gpu-1 --slots 4 --pool asr --lang zh:en --capability whisper
    """
    app = find_app(app_name)
    plugin = _plugin(app, app_name)
    prepare_command(app)
    if runs_in_event_loop(check_pool(app, worker_pool)):
        concurrency, autoscale = "1", None  # it runs one task at a time
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
            app, [*_worker_args(node_id, worker_pool, concurrency, autoscale), *context.args]
        )
    finally:
        node.stop()


def _worker_args(
    node_id: str, worker_pool: str, concurrency: str | None, autoscale: str | None
) -> list[str]:
    return [
        *("-n", f"celery@{node_id}", "-Q", queue_name(node_id)),
        *("-P", worker_pool, "--without-gossip"),  # gossip would leave a queue behind
        *(("--concurrency", concurrency) if concurrency else ()),
        *(("--autoscale", autoscale) if autoscale else ()),
    ]


@contextmanager
def _explained() -> Iterator[None]:
    """An error of Redis or of the scheduler becomes an error message of the command."""
    try:
        yield
    except (SchedulerError, ImproperlyConfigured, OperationalError, RedisError) as exc:
        raise click.ClickException(printable(str(exc), keep="\n")) from exc


def _default_slots(concurrency: str | None, autoscale: str | None) -> int:
    """The number of tasks that the worker runs at a time."""
    if autoscale:
        return max(int(part) for part in autoscale.split(","))
    if concurrency == "auto":
        raise click.UsageError("concurrency 'auto' gives no number of slots. Give --slots too.")
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
    pool_entries = [{"id": pool, "langs": [[src, tgt] for src, _, tgt in pairs]} for pool in pools]
    try:
        return RegisterNodeRequest(
            node_id=node_id,
            max_jobs=slots,
            cap_json=json.dumps(list(capabilities)),
            pools_json=json.dumps(pool_entries),
            online=False,
        )
    except ValidationError as exc:
        raise click.UsageError(sentence_of(exc)) from exc


def _plugin(app: Celery, name: str) -> MinSched:
    plugin = getattr(app, "minsched", None)
    if not isinstance(plugin, MinSched):
        raise click.ClickException(
            f"the application {name!r} has no scheduler. Write MinSched(app) below its Celery(...)."
        )
    return plugin
