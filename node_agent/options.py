"""The options of ``celery worker`` that a node accepts, and the ones that it refuses by name."""

from __future__ import annotations

from typing import Any

import click
from celery import Celery
from celery.bin.base import CLIContext, consume_preload_options
from celery.bin.worker import worker as worker_command
from celery.concurrency import ALIASES, get_implementation
from click.core import ParameterSource

_ENVIRONMENT = "CELERY_WORKER"
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)

#: Options of ``celery worker`` that would break the node, and why.
REFUSED = {
    "queues": "a node consumes its own queue and no other",
    "exclude_queues": "a node consumes its own queue and no other",
    "hostname": "a node's worker is named for the node, see --node-id",
    "detach": "a node runs in the foreground",
    "purge": "the jobs in the node's queue would be lost",
    "prefetch_multiplier": "a node takes each message as soon as its job has a slot, see --slots",
    "disable_prefetch": "a node takes each message as soon as its job has a slot, see --slots",
}

#: A node works with these pool implementations and with the ones derived from them.
_POOLS = {ALIASES[name] for name in ("prefork", "threads", "solo")}


def prepare_command(app: Celery) -> None:
    """Add the application's own options to ``celery worker``, as ``celery.bin.celery`` (5.7) does.

    That module would also load all other commands and plug-ins of Celery, a third of the time of a
    start.
    """
    preload = app.user_options.get("preload", ())
    worker_command.params += [*app.user_options.get("worker", ()), *preload]
    if preload:
        worker_command.callback = consume_preload_options(worker_command.callback)


def run_worker(app: Celery, args: list[str]) -> None:
    """Run ``celery -A app worker ARGS``."""
    worker_command.main(args, **_as_node(app))


def check_options(app: Celery, args: list[str]) -> None:
    """Raise ``UsageError`` for an option that ``celery worker`` does not know or a node refuses, in
    any spelling, and from the environment too.
    """
    settings = _as_node(app)
    context = worker_command.make_context(settings.pop("prog_name"), list(args), **settings)
    for option in worker_command.params:
        name = option.name or ""
        if name in REFUSED and context.get_parameter_source(name) in _GIVEN:
            spelled = "/".join(sorted(option.opts, key=len))
            raise click.UsageError(f"leave out {spelled}: {REFUSED[name]}")


def check_pool(app: Celery, name: Any) -> str:
    """The pool implementation's path. Raises ``UsageError`` if a node does not work with it.

    As in ``celery worker``, the setting ``worker_pool`` wins over the default.
    """
    if name == "prefork":
        name = app.conf.worker_pool or name
    path = ALIASES.get(name, name) if isinstance(name, str) else _path(name)
    if path not in (None, ALIASES["gevent"], ALIASES["eventlet"]):  # these may not be installed
        try:
            pool = get_implementation(path)
            path = next((_path(base) for base in pool.__mro__ if _path(base) in _POOLS), path)
        except (ImportError, AttributeError, ValueError) as exc:
            raise click.UsageError(f"the pool implementation {name!r} is not found: {exc}") from exc
    if path not in _POOLS:
        raise click.UsageError(
            f"a node does not work with the pool implementation {name!r}. Use -P threads for tasks "
            "that wait for other services, or -P prefork for tasks that compute."
        )
    return path


def runs_in_event_loop(pool_path: str) -> bool:
    """Does a task of this pool implementation run in the worker's event loop?"""
    return bool(pool_path == ALIASES["solo"])


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _as_node(app: Celery) -> dict[str, Any]:
    return {
        "prog_name": "node-agent",
        "obj": CLIContext(app=app, no_color=None, workdir=None),
        "auto_envvar_prefix": _ENVIRONMENT,
    }
