"""The Celery router: from a call's options to a demand.

Celery asks a router before it makes the message (celery 5.7, ``Celery.send_task``). So the router
does not know the task's id, eta or countdown, and it does not learn if the publish fails. It only
puts the demand in the message's ``minsched`` header, and answers with the queue
:data:`.header.TO_BE_DISPATCHED`. :mod:`.publish` dispatches the finished message. So a route
changes nothing in Redis.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from celery.app.routes import MapRoute, Router

from ..core import demand
from ..core.keys import node_of_queue
from .builtin_tasks import drop_default_queue, served_task
from .header import HEADER, TO_BE_DISPATCHED
from .runtime import Runtime

#: Options of a route that the scheduler replaces: the destination and the demand.
_REPLACED = frozenset(("queue", "exchange", "exchange_type", "routing_key", HEADER))


class MinSchedRouter:
    """Routes the tasks that have a demand and leaves all others to Celery.

    ``others`` has Celery's own routes: a message's priority, headers and so on come from them.
    """

    def __init__(self, runtime: Runtime, others: Router | None = None) -> None:
        self._runtime = runtime
        self._others = others

    @cached_property
    def _demand_routes(self) -> MapRoute:
        return MapRoute(self._runtime.settings.routes)

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
        per_call = options.pop(HEADER, None)  # Celery would make it a property of the message
        headers = dict(options.pop("headers", None) or {})
        earlier = headers.pop(HEADER, None) or {}  # a retry carries the header of its first run
        if headers:
            options["headers"] = headers

        _drop_stale_destination(options, earlier)
        served = served_task(getattr(task, "name", name), args, kwargs)
        merged = demand.merge(
            *self._demands_of(served),
            self._demand_routes(name),
            getattr(task, HEADER, None),
            earlier.get("demand"),
            per_call,
        )
        if merged and served:
            drop_default_queue(self._runtime.app, served, options)
        if not merged or _destination(options):
            return None
        self._runtime.check_when_full(demand.parse(merged))
        route = self._other_route(name, args, kwargs, options, task)
        # As in Celery, the caller's headers replace those of a route.
        headers = headers or dict(route.pop("headers", None) or {})
        options["headers"] = {**headers, HEADER: {"demand": merged}}
        return {**route, "queue": TO_BE_DISPATCHED}

    def _other_route(self, name: str, *call: Any) -> dict[str, Any]:
        """The options from Celery's routes, without a destination."""
        route = self._others.lookup_route(name, *call) if self._others else None
        if not isinstance(route, Mapping):  # the name of a queue, or nothing
            return {}
        return {option: value for option, value in route.items() if option not in _REPLACED}

    def _demands_of(self, served: Mapping[str, Any]) -> list[object]:
        """The demands of a task's signature, from far to near. An empty signature has none."""
        if not served:
            return []
        name = served["task"]
        return [
            self._demand_routes(name),
            getattr(self._runtime.app.tasks.get(name), HEADER, None),
            served.get("options", {}).get(HEADER),
        ]


def _destination(options: Mapping[str, Any]) -> object:
    """The destination that the caller, or the task's own options, name."""
    return options.get("queue") or options.get("exchange") or options.get("routing_key")


def _drop_stale_destination(options: dict[str, Any], earlier: Mapping[str, Any]) -> None:
    """Drop the queue that ``retry()`` copied from the old message.

    It is the queue of the earlier job's node, or :data:`.header.TO_BE_DISPATCHED`. The caller chose
    neither.
    """
    queue = options.get("queue")
    name = getattr(queue, "name", queue) or ""
    node_id = node_of_queue(name)
    if name == TO_BE_DISPATCHED.name or (node_id and node_id == earlier.get("node_id")):
        del options["queue"]
