"""Moves what waits in an ordinary Celery queue through dispatch; a plain worker may consume it too.

A message is taken out of its list and dispatched in one step, so that it is in the one place or in
the other. Its task's id, priority, eta and expiry stay its own; its demand is the router's for its
task, as if it were sent now.
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
UNREADABLE = "no task message of Celery's"


class Kind(BaseModel):
    """Messages of one task that are treated alike."""

    task: str
    messages: int
    #: What they ask for; "" where they stay.
    demand: str = ""
    #: Why they stay; "" where they do not.
    stays: str = ""


class Adoption(BaseModel):
    """What came of it, or would."""

    queue: str
    waiting: int  # when it began
    adopted: int = 0  # 0 for a dry run
    #: Of those: at a node, in line, in line for what no registered node can do, and delayed.
    placed: int = 0
    busy: int = 0
    impossible: int = 0
    delayed: int = 0
    #: Why it was broken off; "" where it was not.
    refused: str = ""
    kinds: list[Kind] = []  # of a dry run all, else those that stay


class _Stays(NamedTuple):
    task: str
    why: str


class _Job(NamedTuple):
    raw: bytes
    task: str
    request: DispatchRequest
    message: tuple[str, str]  # what is before and after the job's id


class Adopter:
    """Adopts the messages of one queue. ``pool`` is for tasks without a demand of their own.

    Raises ``ValueError`` where it cannot be done at all.
    """

    def __init__(self, plugin: MinSched, queue: str, pool: str | None = None) -> None:
        if obstacle := waiting_unsupported_reason(plugin.app, plugin.settings.database_url):
            raise ValueError(obstacle)
        if queue.startswith("minsched."):
            raise ValueError(f"{queue} is a queue of the scheduler's own")
        self._fallback = (
            demand.parse({"pool": pool}).model_dump(exclude_defaults=True) if pool else None
        )
        self._plugin, self._queue = plugin, queue
        self._router = MinSchedRouter(plugin)
        keys = plugin.scheduler.keys
        #: kombu's lists of the queue, in the order in which a worker takes from them.
        self._lists = [keys.queue_prefix + queue + suffix for suffix in keys.suffixes]
        plugin.app.loader.import_default_modules()  # whose tasks have demands

    def waiting(self) -> int:
        """How many messages lie there."""
        client: Any = self._plugin.scheduler.redis
        return sum(client.llen(place) for place in self._lists)

    def preview(self, limit: int | None = None) -> Adoption:
        """What would come of it. Changes nothing."""
        waiting = self.waiting()
        kinds: Counter[tuple[str, str, str]] = Counter()
        left = waiting if limit is None else limit
        for place in self._lists:
            passed = 0
            while page := self._page(place, passed):
                passed += len(page)
                for job in map(self._judge, page):
                    if isinstance(job, _Stays):
                        kinds[job.task, "", job.why] += 1
                    elif left:
                        left -= 1
                        asked = short_demand(job.request.pool_selector, job.request.capabilities)
                        kinds[job.task, asked, ""] += 1
        return Adoption(queue=self._queue, waiting=waiting, kinds=_kinds(kinds))

    def adopt(self, limit: int | None = None, step: Callable[[], None] = lambda: None) -> Adoption:
        """Do it, for as many messages as lie there now, or ``limit``. ``step`` is called for each.

        Can be broken off, and called again.
        """
        waiting = self.waiting()
        done = Adoption(queue=self._queue, waiting=waiting)
        most = waiting if limit is None else min(limit, waiting)
        kinds: Counter[tuple[str, str, str]] = Counter()
        for place in self._lists:
            before, staying = -1, kinds
            while before != done.adopted:  # a worker that took what stays has moved all the others
                before = done.adopted
                staying = self._adopt_list(place, most, done, step)
            kinds += staying
        done.kinds = _kinds(kinds)
        return done

    def _adopt_list(
        self, place: str, most: int, done: Adoption, step: Callable[[], None]
    ) -> Counter[tuple[str, str, str]]:
        """Once through the list, from the next message to the last; those that stay."""
        staying: Counter[tuple[str, str, str]] = Counter()
        while done.adopted < most and not done.refused:
            page = self._page(place, staying.total())
            if not page:
                break
            jobs = []
            for job in map(self._judge, page):
                if isinstance(job, _Stays):
                    staying[job.task, "", job.why] += 1
                else:
                    jobs.append(job)
            self._send(place, jobs[: most - done.adopted], done, step)
        return staying

    def _send(self, place: str, jobs: list[_Job], done: Adoption, step: Callable[[], None]) -> None:
        asked = [(job.raw, job.request, job.message) for job in jobs]
        for answer in self._plugin.scheduler.adopt_tasks(place, asked) if asked else ():
            if isinstance(answer, SchedulerError):
                done.refused = str(answer)
            elif answer is not None:
                done.adopted += 1
                how = "placed" if answer.node_id else answer.chosen_by
                setattr(done, how, getattr(done, how) + 1)
                step()

    def _page(self, place: str, passed: int) -> list[bytes]:
        """The next messages after so many that are passed by."""
        client: Any = self._plugin.scheduler.redis
        page: list[bytes] = client.lrange(place, -PAGE - passed, -1 - passed)
        return page[::-1]

    def _judge(self, raw: bytes) -> _Job | _Stays:
        message = read_task(raw)
        if message is None:
            told = read_message(raw).get("headers")
            name = told.get("task") if isinstance(told, dict) else None
            return _Stays(str(name or ""), UNREADABLE)
        name, headers = message.task, message.headers
        stated = self._demand_of(name, headers)
        if not stated:
            return _Stays(name, NO_DEMAND)
        token = uuid.uuid4().hex  # stands for the job's id, which is not known yet
        headers[HEADER] = {"demand": stated, "job_id": token}
        to = {"exchange": "", "routing_key": TO_BE_DISPATCHED.name}
        message.properties["delivery_info"] = to
        request = request_of(message.content)
        if request is None:
            return _Stays(name, UNREADABLE)
        # It waits here already, so it may wait there, whatever its demand says of new ones.
        waits = request.model_copy(update={"when_full": "wait", "token": token})
        return _Job(raw, name, waits, split_at(dumps(message.content), token))

    def _demand_of(self, name: str, headers: dict[str, Any]) -> dict[str, Any] | None:
        """The router's for a call of the task with these headers, else the one given."""
        options: dict[str, Any] = {"headers": headers}
        task = self._plugin.app.tasks.get(name)
        if self._router(name, options=options, task=task) is None:
            return self._fallback
        stated: dict[str, Any] = options["headers"][HEADER]["demand"]
        return stated


def _kinds(counts: Counter[tuple[str, str, str]]) -> list[Kind]:
    return [
        Kind(task=task, messages=number, demand=asked, stays=why)
        for (task, asked, why), number in sorted(counts.items())
    ]
