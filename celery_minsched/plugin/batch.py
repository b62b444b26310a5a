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
from ..core.models import JobFields
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


class Sender:
    """Sends many tasks, with one template for those whose messages differ in their arguments."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._templates: dict[tuple[type, str, str], MessageTemplate] = {}

    def send(self, signatures: Iterable[Signature], buffer: list[Job]) -> list[AsyncResult]:
        """Send tasks while ``app.amqp.buffer_jobs()`` collects jobs in ``buffer``.

        Returns the tasks' results, in order.
        """
        results = []
        if not _allows_templates(self._app):
            return [signature.apply_async() for signature in signatures]
        for signature in signatures:
            kind = (type(signature), signature["task"], repr(signature["options"]))
            template = self._templates.get(kind)
            if template:
                job, result = template.send(signature)
                buffer.append(job)
            else:
                count = len(buffer)
                result = signature.apply_async()
                if _is_plain(self._app, signature) and len(buffer) > count:
                    template = MessageTemplate(self._app, signature, buffer[-1])
                    if template.is_usable:
                        self._templates[kind] = template
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


#: Types of values that saferepr shows as ``str`` does.
_NUMBERS = {int, float, bool, type(None)}


def args_text(args: Any, max_length: int, depth: int) -> str:
    """The text that ``saferepr`` (Celery 5.7) makes of a task's arguments.

    Faster for a short tuple of texts and numbers: saferepr takes a sixth of the time of a task in
    a batch.
    """
    if type(args) is tuple and all(type(arg) in _NUMBERS or type(arg) is str for arg in args):
        parts = [
            "'{}'".format(arg.replace("'", "\\'")) if type(arg) is str else str(arg) for arg in args
        ]
        text = f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
        if max_length and len(text) < max_length:  # saferepr shortens no part
            return text
    return str(saferepr(args, max_length, depth))


class MessageTemplate:
    """Copies the message that Celery made for the first task, with the arguments of other tasks."""

    def __init__(self, app: Celery, signature: Signature, job: Job) -> None:
        self._amqp = app.amqp
        self._depth = app.conf.task_repr_maxlevels
        self._task = app.tasks[signature.task]
        self._ignores_result = signature.options.get("ignore_result", self._task.ignore_result)
        self._serializer = self._task.serializer or app.conf.task_serializer
        self._request, self._own, self._header = job.request, job.own, {**job.header}
        self._message = json.loads(json.dumps(job.own.token).join(job.message))
        self._head, self._tail = self._compile()

    @property
    def is_usable(self) -> bool:
        """Is the job's message of a form for which the template is right?"""
        has_times = self._own.due_ts or self._own.expires_ts
        return (
            not has_times
            and "compression" not in self._message["headers"]
            and self._message["properties"]["body_encoding"] == "base64"
        )

    def send(self, signature: Signature) -> tuple[Job, AsyncResult]:
        """The task's job and result. Raises ``TypeError`` for arguments that it does not take."""
        args, kwargs = signature["args"], signature["kwargs"]
        if self._task.typing:
            self._task.__header__(*args, **kwargs)
        task_id = uuid()
        values = {
            "task_id": f'"{task_id}"',
            "body": f'"{self._body(args, kwargs)}"',
            "args": json.dumps(args_text(args, self._amqp.argsrepr_maxsize, self._depth)),
            "kwargs": json.dumps(saferepr(kwargs, self._amqp.kwargsrepr_maxsize, self._depth))
            if kwargs
            else '"{}"',
        }
        message = (self._head % values, self._tail % values)
        # Jobs may share a token: their task ids differ.
        own = JobFields(priority=self._own.priority, task_id=task_id, token=self._own.token)
        span = tracing.dispatching(self._task.name, self._request, task_id)
        result = self._task.AsyncResult(task_id)
        result.ignored = self._ignores_result
        return Job(self._request, own, {**self._header}, span, message), result

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
        return split_at(text, self._own.token)

    def _body(self, args: Any, kwargs: Any) -> str:
        callbacks = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
        _, encoding, body = dumps((args, kwargs, callbacks), serializer=self._serializer)
        data = body.encode(encoding) if isinstance(body, str) else body
        return b64encode(data).decode("ascii")
