"""The Celery router: from a call's options to a demand.

A router is asked before Celery has made the message, so it does not know the task's id, eta or
countdown, and nobody tells it when the publish fails (celery 5.7, ``Celery.send_task``). It
therefore only states the demand, in the message's ``minsched`` header, and answers with a queue
that stands for "to be dispatched". :mod:`.publish` has the message in hand and
dispatches. Asking for a route so has no effect on Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.app.routes import MapRoute, Router
from kombu import Queue

from ..core import demand
from ..core.keys import node_of_queue
from .builtin_tasks import drop_default_queue, served_task

if TYPE_CHECKING:
    from .plugin import MinSched

HEADER = "minsched"

#: Stands for the queue of the node that is not chosen yet. Never declared, never sent to.
TO_BE_DISPATCHED = Queue("minsched.dispatch", no_declare=True)


#: Options of a route that do not count: the destination, and a demand, which is stated elsewhere.
_NOT_KEPT = frozenset(("queue", "exchange", "exchange_type", "routing_key", HEADER))


class MinSchedRouter:
    """Routes the tasks that have a demand and leaves all others to Celery.

    ``others`` has Celery's own routes: they still state a message's priority, headers and so on.
    """

    def __init__(self, plugin: MinSched, others: Router | None = None) -> None:
        self._plugin = plugin
        self._others = others

    def __call__(
        self,
        name: str,
        args: object = (),
        kwargs: object = None,
        options: dict[str, Any] | None = None,
        task: object = None,
        **_: object,
    ) -> dict[str, Any] | None:
        """Celery's router protocol. Raises :class:`InvalidDemand` for a demand it cannot read."""
        options = {} if options is None else options
        per_call = options.pop(HEADER, None)  # left there, it would become a message property
        headers = dict(options.pop("headers", None) or {})
        earlier = headers.pop(HEADER, None) or {}  # a retry carries the header of its first run
        if headers:
            options["headers"] = headers

        _drop_stale_destination(options, earlier)
        served = served_task(getattr(task, "name", name), args, kwargs)
        stated = demand.merge(
            *self._demands_of(served),
            MapRoute(self._plugin.settings.routes)(name),
            getattr(task, HEADER, None),
            earlier.get("demand"),
            per_call,
        )
        if stated and served:
            drop_default_queue(self._plugin.app, served, options)
        if not stated or _destination(options):
            return None
        self._plugin.check_when_full(demand.parse(stated))
        route = self._other_route(name, args, kwargs, options, task)
        # As Celery merges them: the caller's headers replace those of a route.
        headers = headers or dict(route.pop("headers", None) or {})
        options["headers"] = {**headers, HEADER: {"demand": stated}}
        return {**route, "queue": TO_BE_DISPATCHED}

    def _other_route(self, name: str, *call: Any) -> dict[str, Any]:
        """What Celery's routes say of the message, without its destination."""
        route = self._others.lookup_route(name, *call) if self._others else None
        if not isinstance(route, Mapping):  # the name of a queue, or nothing
            return {}
        return {option: value for option, value in route.items() if option not in _NOT_KEPT}

    def _demands_of(self, served: Mapping[str, Any]) -> list[object]:
        """What the signature of a task asks for, from far to near; nothing for an empty one."""
        if not served:
            return []
        name = served["task"]
        return [
            MapRoute(self._plugin.settings.routes)(name),
            getattr(self._plugin.app.tasks.get(name), HEADER, None),
            served.get("options", {}).get(HEADER),
        ]


def _destination(options: Mapping[str, Any]) -> object:
    """Where the caller, or the task's own options, want the message to go."""
    return options.get("queue") or options.get("exchange") or options.get("routing_key")


def _drop_stale_destination(options: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """``retry()`` turns the old message's destination into ``queue=``. Where that is the node that
    the scheduler chose for the earlier job, or was open when that was sent, the caller chose
    nothing.
    """
    queue = options.get("queue")
    name = getattr(queue, "name", queue) or ""
    node_id = node_of_queue(name)
    if name == TO_BE_DISPATCHED.name or (node_id and node_id == earlier.get("node_id")):
        del options["queue"]
