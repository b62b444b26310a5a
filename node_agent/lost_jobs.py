"""Tells the callers of lost jobs, by Celery's rules for a lost worker."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.app.task import Context
from celery.worker.request import Request
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import prepare_accept_content
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from celery_minsched import MaxRescuesExceededError, NodeLostError
from celery_minsched.messages import read_message
from celery_minsched.plugin import MinSched

logger = logging.getLogger(__name__)


def tell_lost(plugin: MinSched, job_id: str) -> None:
    """Tell whoever waits for a lost job's result, by Celery's rules for a lost worker.

    The result backend, errbacks, chord and chain are told, ``task_failure`` is sent, and
    ``retry_on_worker_lost`` is honoured. Where the message itself is lost only the result backend
    can be told. One that dies in the middle of this is followed by another, which tells all again,
    and retries nothing twice.
    """
    scheduler = plugin.scheduler
    client, keys = scheduler.redis, scheduler.keys
    record = {
        bytes_to_str(name): bytes_to_str(value)
        for name, value in client.hgetall(keys("job", job_id)).items()
    }
    task_id, node_id, tag = (record.get(name, "") for name in ("task_id", "node_id", "tag"))
    parked = keys("job_queue", job_id) + record.get("suffix", "")
    if task_id and not _is_retried(plugin, job_id, task_id):
        entry = client.hget(keys("node_unacked", node_id), tag) if tag else None
        raw = loads(bytes_to_str(entry))[0] if entry else None
        if raw is None and (lying := client.lindex(parked, 0)):
            raw = read_message(lying) or None
        reason = record.get("reason", "")
        text = f"job {job_id} of task {task_id}, last at node {node_id or '(none)'}: {reason}"
        _fail(plugin.app, task_id, _lost(record.get("status", ""), text), raw, node_id)
    with client.pipeline(transaction=True) as pipe:
        pipe.hdel(keys("node_unacked", node_id), tag)
        pipe.zrem(keys("node_unacked_index", node_id), tag)
        pipe.srem(keys("node_acked", node_id), tag)
        pipe.delete(parked)
        pipe.zrem(keys("lost"), job_id)
        pipe.execute()


def _is_retried(plugin: MinSched, job_id: str, task_id: str) -> bool:
    """Has another, who died while telling of the job, sent a retry of its task?"""
    latest = plugin.where(task_id)
    return latest is not None and latest.job_id != job_id


def _lost(status: str, text: str) -> Exception:
    return NodeLostError(text) if status == "lost" else MaxRescuesExceededError(text)


def _fail(app: Celery, task_id: str, exc: Exception, raw: Any, node_id: str) -> None:
    logger.error("%s: %s", type(exc).__name__, exc)
    try:
        raise exc
    except Exception:
        einfo = ExceptionInfo()
    request = _request(app, raw, node_id)
    if request:
        request.on_failure(einfo)
    else:
        app.backend.mark_as_failure(task_id, exc, request=Context({"id": task_id}))


def _request(app: Celery, raw: Any, node_id: str) -> Request | None:
    """Celery's request for the message, ``None`` where none can be made of it."""
    if raw is None:
        return None
    with app.connection_for_read() as connection:
        try:
            message = connection.default_channel.Message(raw, channel=connection.default_channel)
            message.accept = prepare_accept_content(app.conf.accept_content)
            return Request(message, app=app, hostname=f"celery@{node_id}")
        except (KeyError, ValueError, TypeError, ContentDisallowed, DecodeError) as exc:
            logger.error("a lost message cannot be read, only its id is told: %r", exc)
            return None
