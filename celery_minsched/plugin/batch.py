"""Many tasks that differ in their arguments only: Celery makes the message of the first, and those
of the others are made of that one.

Celery's own way to a message is most of what a batch takes (docs/benchmarks.md). What it does there
for each task (signals, events, callbacks, times, stamps, a parent's trail) a copy does not: a task
that has any of these goes Celery's own way.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from base64 import b64encode
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from celery import Celery, Signature, signals
from celery.app.routes import MapRoute
from celery.result import AsyncResult
from celery.utils.saferepr import saferepr
from kombu.messaging import Producer
from kombu.serialization import dumps
from kombu.utils.uuid import uuid

from . import tracing
from .messages import split_at
from .publish import Job

#: Options of a signature by which the message is the same for whatever arguments.
_SAME_FOR_ALL = {"minsched", "priority", "ignore_result"}
#: Where Celery and kombu (5.7) define what stands between a signature and its message.
_HOMES = {
    "celery.app.base",
    "celery.app.task",
    "celery.app.amqp",
    "celery.canvas",
    "kombu.messaging",
}
_LISTENED_TO = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)


def send(app: Celery, signatures: Iterable[Signature], jobs: list[Job]) -> list[AsyncResult]:
    """Send tasks while ``app.amqp.hold_back()`` holds ``jobs`` back; their results in order."""
    results = []
    stencils: dict[str, _Stencil] = {}
    nobody_looks = _nobody_looks(app)
    for signature in signatures:
        # The same for those whose messages differ in nothing but their arguments.
        kind = f"{type(signature)} {signature.task} {signature.options!r}"
        if kind in stencils:
            job, result = stencils[kind].send(signature)
            jobs.append(job)
        else:
            count = len(jobs)
            result = signature.apply_async()
            if nobody_looks and _is_plain(app, signature) and len(jobs) > count:
                stencil = _Stencil(app, signature, jobs[-1])
                if stencil.fits:
                    stencils[kind] = stencil
        results.append(result)
    return results


def _nobody_looks(app: Celery) -> bool:
    """Does nobody here want to know of each task that is sent?"""
    return (
        not any(signal.receivers for signal in _LISTENED_TO)
        and not app.conf.task_send_sent_event
        and not app.conf.task_always_eager
        and not app.current_worker_task
        # A router that is a function may look at the arguments.
        and all(isinstance(route, MapRoute) for route in app.amqp.router.routes[1:])
        and _is_celerys(app, "send_task")
        and _is_celerys(Signature, "apply_async")
        and _is_celerys(app.amqp, "as_task_v2")
        and app.amqp.create_task_message == app.amqp.as_task_v2
        and _is_celerys(Producer, "publish")
    )


def _is_plain(app: Celery, signature: Signature) -> bool:
    """Does Celery (5.7) send this task as it does any other?"""
    task = app.tasks.get(signature.task)
    return (
        type(signature) is Signature
        and signature.options.keys() <= _SAME_FOR_ALL
        and task is not None
        and all(_is_celerys(task, way) for way in ("apply_async", "shadow_name"))
        and task._dump_pydantic_arguments is None
        and task.expires is None
    )


def _is_celerys(owner: Any, name: str) -> bool:
    """Is a function of Celery's or kombu's still what their own module defines?

    Not if a subclass overrides it. Not if it is patched, in the class or in the object: an
    instrumentation gives each message headers of its own so.
    """
    function = inspect.getattr_static(owner, name, None)
    if type(function) is not FunctionType:
        return False
    home = function.__globals__["__name__"]
    return home in _HOMES and vars(sys.modules[home]) is function.__globals__


class _Stencil:
    """Makes messages like the one that Celery made of the first task."""

    def __init__(self, app: Celery, signature: Signature, job: Job) -> None:
        self._amqp = app.amqp
        self._depth = app.conf.task_repr_maxlevels
        self._task = app.tasks[signature.task]
        self._ignored = signature.options.get("ignore_result", self._task.ignore_result)
        self._serializer = self._task.serializer or app.conf.task_serializer
        self._job = job
        self._message = json.loads(json.dumps(job.request.token).join(job.message))
        self._head, self._tail = self._cut()

    @property
    def fits(self) -> bool:
        """Is the job's message one that a stencil can be made of?"""
        has_times = self._job.request.due_ts or self._job.request.expires_ts
        return (
            not has_times
            and "compression" not in self._message["headers"]
            and self._message["properties"]["body_encoding"] == "base64"
        )

    def send(self, signature: Signature) -> tuple[Job, AsyncResult]:
        """The task's job and result. Raises ``TypeError`` for arguments that it does not take."""
        args, kwargs = signature.args, signature.kwargs
        if self._task.typing:
            self._task.__header__(*args, **kwargs)
        task_id = uuid()
        # The token stays: with a task id of its own a job is told from all others.
        request = self._job.request.model_copy(update={"task_id": task_id})
        open_places = {
            "task_id": f'"{task_id}"',
            "body": f'"{self._body(args, kwargs)}"',
            "args": json.dumps(saferepr(args, self._amqp.argsrepr_maxsize, self._depth)),
            "kwargs": json.dumps(saferepr(kwargs, self._amqp.kwargsrepr_maxsize, self._depth))
            if kwargs
            else '"{}"',
        }
        message = (self._head % open_places, self._tail % open_places)
        span = tracing.dispatching(self._task.name, request)
        result = self._task.AsyncResult(task_id)
        result.ignored = self._ignored
        return Job(request, {**self._job.header}, span, message), result

    def _cut(self) -> tuple[str, str]:
        """The message's text before and after its job's id, with the places that differ left open.

        A message's tag need only be one that no other has: its task's id will do.
        """
        mark = uuid()
        text = json.dumps(
            {
                **self._message,
                "body": f"{mark} body",
                "headers": {
                    **self._message["headers"],
                    **dict.fromkeys(("id", "root_id"), f"{mark} task_id"),
                    "argsrepr": f"{mark} args",
                    "kwargsrepr": f"{mark} kwargs",
                },
                "properties": {
                    **self._message["properties"],
                    **dict.fromkeys(("correlation_id", "delivery_tag"), f"{mark} task_id"),
                },
            }
        )
        text = re.sub(rf'"{mark} (\w+)"', r"%(\1)s", text.replace("%", "%%"))
        return split_at(text, self._job.request.token)

    def _body(self, args: Any, kwargs: Any) -> str:
        callbacks = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
        _, encoding, body = dumps((args, kwargs, callbacks), serializer=self._serializer)
        data = body.encode(encoding) if isinstance(body, str) else body
        return b64encode(data).decode("ascii")
