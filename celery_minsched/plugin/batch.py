"""Makes the messages of many tasks that differ only in their arguments.

Celery makes the message of the first task. It becomes a template for the others, because Celery's
own code takes most of a batch's time (docs/benchmarks.md). A message from a template skips what
Celery does for each task: signals, events, callbacks, times, stamps, a parent's trail. So a task
that has any of these takes Celery's way.
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

from ..core.job_fields import MessageParts
from . import tracing
from .dispatch_job import Job
from .messages import split_at

#: Options of a signature that do not make messages differ by their arguments.
_ALLOWED_OPTIONS = {"minsched", "priority", "ignore_result"}
#: Celery's and kombu's (5.7) modules between a signature and its message.
_ORIGINAL_MODULES = {
    "celery.app.base",
    "celery.app.task",
    "celery.app.amqp",
    "celery.canvas",
    "kombu.messaging",
}
_PUBLISH_SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)


def send(app: Celery, signatures: Iterable[Signature], buffer: list[Job]) -> list[AsyncResult]:
    """Send tasks while ``app.amqp.buffer_jobs()`` collects jobs in ``buffer``.

    Returns the tasks' results, in order.
    """
    results = []
    templates: dict[str, MessageTemplate] = {}
    allows_templates = _allows_templates(app)
    for signature in signatures:
        # Messages of the same kind differ only in their arguments.
        kind = f"{type(signature)} {signature.task} {signature.options!r}"
        if kind in templates:
            job, result = templates[kind].send(signature)
            buffer.append(job)
        else:
            count = len(buffer)
            result = signature.apply_async()
            if allows_templates and _is_plain(app, signature) and len(buffer) > count:
                template = MessageTemplate(app, signature, buffer[-1])
                if template.is_usable:
                    templates[kind] = template
        results.append(result)
    return results


def _allows_templates(app: Celery) -> bool:
    """Does nothing in this process act on each task that is sent?"""
    return (
        not any(signal.receivers for signal in _PUBLISH_SIGNALS)
        and not app.conf.task_send_sent_event
        and not app.conf.task_always_eager
        and not app.current_worker_task
        # A router that is a function may read the arguments.
        and all(isinstance(route, MapRoute) for route in app.amqp.router.routes[1:])
        and _is_original(app, "send_task")
        and _is_original(Signature, "apply_async")
        and _is_original(app.amqp, "as_task_v2")
        and app.amqp.create_task_message == app.amqp.as_task_v2
        and _is_original(Producer, "publish")
    )


def _is_plain(app: Celery, signature: Signature) -> bool:
    """Does Celery (5.7) send this task without any special handling?"""
    task = app.tasks.get(signature.task)
    return (
        type(signature) is Signature
        and signature.options.keys() <= _ALLOWED_OPTIONS
        and task is not None
        and all(_is_original(task, name) for name in ("apply_async", "shadow_name"))
        and task._dump_pydantic_arguments is None
        and task.expires is None
    )


def _is_original(owner: Any, name: str) -> bool:
    """Does Celery's or kombu's own module define the function?

    Not if a subclass overrides it, or if the class or the object is patched. An instrumentation
    patches it to give each message its own headers.
    """
    function = inspect.getattr_static(owner, name, None)
    if type(function) is not FunctionType:
        return False
    module = function.__globals__["__name__"]
    return module in _ORIGINAL_MODULES and vars(sys.modules[module]) is function.__globals__


class MessageTemplate:
    """Makes messages like the one that Celery made of the first task."""

    def __init__(self, app: Celery, signature: Signature, job: Job) -> None:
        self._amqp = app.amqp
        self._depth = app.conf.task_repr_maxlevels
        self._task = app.tasks[signature.task]
        self._ignores_result = signature.options.get("ignore_result", self._task.ignore_result)
        self._serializer = self._task.serializer or app.conf.task_serializer
        self._job = job
        self._message = json.loads(json.dumps(job.request.token).join(job.message))
        self._head, self._tail = self._compile()

    @property
    def is_usable(self) -> bool:
        """Is the job's message of a form for which the template is right?"""
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
        # Jobs may share a token: their task ids differ.
        request = self._job.request.model_copy(update={"task_id": task_id})
        values = {
            "task_id": f'"{task_id}"',
            "body": f'"{self._body(args, kwargs)}"',
            "args": json.dumps(saferepr(args, self._amqp.argsrepr_maxsize, self._depth)),
            "kwargs": json.dumps(saferepr(kwargs, self._amqp.kwargsrepr_maxsize, self._depth))
            if kwargs
            else '"{}"',
        }
        message = (self._head % values, self._tail % values)
        span = tracing.dispatching(self._task.name, request)
        result = self._task.AsyncResult(task_id)
        result.ignored = self._ignores_result
        return Job(request, {**self._job.header}, span, message), result

    def _compile(self) -> MessageParts:
        """The message's text before and after its job's id, as formats for ``%``.

        The task's id is also the message's tag: a tag has only to be unique.
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
