"""Moves the waiting messages of an ordinary Celery queue into the scheduler.

Plain workers can consume the queue at the same time. A script takes a message out of its list and
dispatches it in one step, so a message is never lost or duplicated. A task keeps its id, priority,
eta and expiry. Its demand comes from the router, as in a new call.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from kombu.utils.json import dumps
from pydantic import BaseModel

from ..core import demand
from ..core.describe import short_demand
from ..core.errors import SchedulerError
from ..core.models import DispatchRequest
from ..core.reading import PAGE
from ..plugin.connection import waiting_unsupported_reason
from ..plugin.header import HEADER, TO_BE_DISPATCHED
from ..plugin.messages import read_message, read_task, request_of, split_at
from ..plugin.plugin import MinSched
from ..plugin.router import MinSchedRouter

NO_DEMAND = "no demand: name a pool with --pool, or in minsched_routes"
UNREADABLE = "not a task message of Celery"

#: Counts messages by task, demand ("" if they stay) and the reason why they stay ("" if not).
KindCounts = Counter[tuple[str, str, str]]


class Kind(BaseModel):
    """Messages of one task with the same demand, or with the same reason to stay."""

    task: str
    messages: int
    #: "" if the messages stay.
    demand: str = ""
    #: The reason why the messages stay in the queue. "" if they do not stay.
    stays: str = ""


class Adoption(BaseModel):
    """The result of an adoption or of its preview."""

    queue: str
    waiting: int  # messages at the start
    adopted: int = 0  # 0 in a preview
    #: The adopted jobs: at a node, in line, in line without a node that can run them, and delayed.
    placed: int = 0
    busy: int = 0
    impossible: int = 0
    delayed: int = 0
    #: The error that stopped the adoption, or "" for none.
    refused: str = ""
    kinds: list[Kind] = []  # all kinds in a preview, otherwise the kinds that stay


class _Stays(NamedTuple):
    task: str
    reason: str


class _Adoptable(NamedTuple):
    raw: bytes
    task: str
    request: DispatchRequest
    message: tuple[str, str]  # the text before and after the job's id


class Adopter:
    """Adopts the messages of one queue. Tasks without a demand go to ``pool``.

    Raises ``ValueError`` if messages of the queue cannot be adopted at all.
    """

    def __init__(self, plugin: MinSched, queue: str, pool: str | None = None) -> None:
        if obstacle := waiting_unsupported_reason(plugin.app, plugin.settings.database_url):
            raise ValueError(obstacle)
        if queue.startswith("minsched."):
            raise ValueError(f"{queue} is a queue of the scheduler")
        self._fallback = (
            demand.parse({"pool": pool}).model_dump(exclude_defaults=True) if pool else None
        )
        self._plugin, self._queue = plugin, queue
        self._router = MinSchedRouter(plugin)
        keys = plugin.scheduler.keys
        #: kombu has one list a priority. Workers read the lists in this order.
        self._lists = [keys.queue_prefix + queue + suffix for suffix in keys.suffixes]
        plugin.app.loader.import_default_modules()  # registers the tasks with their demands

    def waiting(self) -> int:
        """The number of messages in the queue."""
        client: Any = self._plugin.scheduler.redis
        return sum(client.llen(key) for key in self._lists)

    def preview(self, limit: int | None = None) -> Adoption:
        """The expected result of an adoption. Changes nothing."""
        waiting = self.waiting()
        kinds: KindCounts = Counter()
        left = waiting if limit is None else limit
        for key in self._lists:
            passed = 0
            while page := self._read_page(key, passed):
                passed += len(page)
                for message in map(self._classify, page):
                    if isinstance(message, _Stays):
                        kinds[message.task, "", message.reason] += 1
                    elif left:
                        left -= 1
                        request = message.request
                        text = short_demand(request.pool_selector, request.capabilities)
                        kinds[message.task, text, ""] += 1
        return Adoption(queue=self._queue, waiting=waiting, kinds=_kinds(kinds))

    def adopt(self, limit: int | None = None, step: Callable[[], None] = lambda: None) -> Adoption:
        """Adopt the messages that wait now, or ``limit`` of them. Calls ``step`` for each.

        After an interruption, a second call adopts the rest.
        """
        waiting = self.waiting()
        result = Adoption(queue=self._queue, waiting=waiting)
        most = waiting if limit is None else min(limit, waiting)
        kinds: KindCounts = Counter()
        for key in self._lists:
            # If a worker takes a message that stays, all later messages move, and the pass misses
            # some. So the list is read again until a pass adopts nothing.
            before, staying = -1, kinds
            while before != result.adopted:
                before = result.adopted
                staying = self._adopt_list(key, most, result, step)
            kinds += staying
        result.kinds = _kinds(kinds)
        return result

    def _adopt_list(
        self, key: str, most: int, result: Adoption, step: Callable[[], None]
    ) -> KindCounts:
        """Pass once through a list, in the order of a worker. Returns the messages that stay."""
        staying: KindCounts = Counter()
        while result.adopted < most and not result.refused:
            page = self._read_page(key, staying.total())
            if not page:
                break
            adoptable = []
            for message in map(self._classify, page):
                if isinstance(message, _Stays):
                    staying[message.task, "", message.reason] += 1
                else:
                    adoptable.append(message)
            self._dispatch(key, adoptable[: most - result.adopted], result, step)
        return staying

    def _dispatch(
        self, key: str, messages: list[_Adoptable], result: Adoption, step: Callable[[], None]
    ) -> None:
        if not messages:
            return
        jobs = [(message.raw, message.request, message.message) for message in messages]
        for outcome in self._plugin.scheduler.adopt_tasks(key, jobs):
            if isinstance(outcome, SchedulerError):
                result.refused = str(outcome)
            elif outcome is not None:  # None: a worker has taken the message
                result.adopted += 1
                field = "placed" if outcome.node_id else outcome.chosen_by
                setattr(result, field, getattr(result, field) + 1)
                step()

    def _read_page(self, key: str, passed: int) -> list[bytes]:
        """The next messages of a list after the first ``passed``. The list's head is its end."""
        client: Any = self._plugin.scheduler.redis
        page: list[bytes] = client.lrange(key, -PAGE - passed, -1 - passed)
        return page[::-1]

    def _classify(self, raw: bytes) -> _Adoptable | _Stays:
        message = read_task(raw)
        if message is None:
            headers = read_message(raw).get("headers")
            name = headers.get("task") if isinstance(headers, dict) else None
            return _Stays(str(name or ""), UNREADABLE)
        name, headers = message.task, message.headers
        demand_ = self._demand_of(name, headers)
        if not demand_:
            return _Stays(name, NO_DEMAND)
        token = uuid.uuid4().hex  # The script replaces the token with the job's id.
        headers[HEADER] = {"demand": demand_, "job_id": token}
        target = {"exchange": "", "routing_key": TO_BE_DISPATCHED.name}
        message.properties["delivery_info"] = target
        request = request_of(message.content)
        if request is None:
            return _Stays(name, UNREADABLE)
        # The message waits already, so it may wait in line even if its demand refuses to wait.
        request = request.model_copy(update={"when_full": "wait", "token": token})
        return _Adoptable(raw, name, request, split_at(dumps(message.content), token))

    def _demand_of(self, name: str, headers: dict[str, Any]) -> dict[str, Any] | None:
        """The demand that the router gives a call of the task, or the demand of ``pool``."""
        options: dict[str, Any] = {"headers": headers}
        task = self._plugin.app.tasks.get(name)
        if self._router(name, options=options, task=task) is None:
            return self._fallback
        routed: dict[str, Any] = options["headers"][HEADER]["demand"]
        return routed


def _kinds(counts: KindCounts) -> list[Kind]:
    return [
        Kind(task=task, messages=number, demand=demand_, stays=reason)
        for (task, demand_, reason), number in sorted(counts.items())
    ]
