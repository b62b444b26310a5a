"""Reports lost jobs to their callers, by Celery's rules for a lost worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.app.task import Context
from celery.exceptions import BackendError
from celery.worker.request import Request
from kombu.exceptions import OperationalError
from kombu.serialization import prepare_accept_content
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import RedisError

from celery_minsched import MaxRescuesExceededError, NodeLostError
from celery_minsched.plugin.messages import read_message, read_unacked
from celery_minsched.plugin.plugin import MinSched

logger = logging.getLogger(__name__)

_HANGS = 2.0  # seconds after which another report may begin
_MOST_THREADS = 16


class LostJobs:
    """Reports lost jobs to their callers, in threads of its own.

    One thread reports one job after another. If a report hangs (its result backend is away), the
    next call of :meth:`report_due` starts another thread. That thread reports no job of the same
    task, so each task has one hanging thread at most.
    """

    def __init__(self, plugin: MinSched) -> None:
        self._plugin = plugin
        #: For each thread: the task whose job it reports ("" between two jobs), and since when.
        self._threads: dict[threading.Thread, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def report_due(self) -> None:
        """Report the jobs that are due, unless a thread does that already. Does not block."""
        with self._lock:
            now = time.monotonic()
            is_working = any(now - since < _HANGS for _, since in self._threads.values())
            if self._stopping or is_working or len(self._threads) >= _MOST_THREADS:
                return
            thread = threading.Thread(target=self._run, name="lost-jobs", daemon=True)
            thread.start()
            self._threads[thread] = ("", now)  # the thread asks for the lock before it reads this

    def stop(self, patience: float) -> None:
        """Begin no other report, and wait ``patience`` seconds at most for the running ones."""
        self._stopping = True
        with self._lock:
            now = time.monotonic()
            threads = [one for one, (_, since) in self._threads.items() if now - since < _HANGS]
        for thread in threads:
            thread.join(patience)

    def _run(self) -> None:
        me = threading.current_thread()
        try:
            backend = self._plugin.app.backend
            if not backend.thread_safe:  # the thread has its own backend, and a retry comes anyway
                backend.always_retry = False
            while not self._stopping and report_next(self._plugin, self._begin):
                self._begin("")
        except (RedisError, OperationalError) as exc:
            logger.warning("lost jobs are reported later: %s", exc)
        except Exception:
            logger.exception("lost jobs are reported later")
        finally:
            with self._lock:
                del self._threads[me]

    def _begin(self, task: str) -> bool:
        """Note the task whose job this thread reports now. False if another thread reports one."""
        with self._lock:
            if task and any(name == task for name, _ in self._threads.values()):
                return False
            self._threads[threading.current_thread()] = (task, time.monotonic())
        return True


def report_next(plugin: MinSched, may_begin: Callable[[str], bool] = lambda task: True) -> bool:
    """Report one due job to its caller. Returns False if no job is due.

    If the report fails, the job is due again after a pause. The pause grows.
    """
    job_id = plugin.scheduler.claim_lost_job()
    if not job_id:
        return False
    try:
        lost = LostJob(plugin, job_id)
        if may_begin(lost.task):
            lost.report()
    except (RedisError, OperationalError, OSError, BackendError) as exc:
        logger.warning("lost job %s is reported to its caller later: %s", job_id, exc)
    except Exception:
        logger.exception("lost job %s cannot be reported to its caller now", job_id)
    return True


class LostJob:
    """A lost job, its record and its message."""

    def __init__(self, plugin: MinSched, job_id: str) -> None:
        self._plugin, self.job_id = plugin, job_id
        client, keys = plugin.scheduler.redis, plugin.scheduler.keys
        record = {
            bytes_to_str(name): bytes_to_str(value)
            for name, value in client.hgetall(keys("job", job_id)).items()
        }
        self._task_id, self._node_id, self._tag, self._status, self._reason, suffix = (
            record.get(name, "")
            for name in ("task_id", "node_id", "tag", "status", "reason", "suffix")
        )
        self._list = keys("job_queue", job_id) + suffix
        entry = client.hget(keys("node_unacked", self._node_id), self._tag) if self._tag else None
        self._message: dict[str, Any] = read_unacked(entry)
        if not self._message and (raw := client.lindex(self._list, 0)):
            self._message = read_message(raw)

    @property
    def task(self) -> str:
        """The name of its task. If the message is lost, a name that no task has."""
        headers = self._message.get("headers")
        return str(headers.get("task")) if isinstance(headers, dict) else "(message lost)"

    def report(self) -> None:
        """Report the job, by Celery's rules for a lost worker.

        The result backend, errbacks, chord and chain get the error, ``task_failure`` is sent, and
        ``retry_on_worker_lost`` is honoured. If the message itself is lost, only the result backend
        gets the error. If a thread dies meanwhile, another thread repeats the report, and sends no
        second retry.
        """
        scheduler = self._plugin.scheduler
        keys = scheduler.keys
        if self._task_id and not _is_retried(self._plugin, self.job_id, self._task_id):
            self._fail()
        with scheduler.redis.pipeline(transaction=True) as pipe:
            pipe.hdel(keys("node_unacked", self._node_id), self._tag)
            pipe.zrem(keys("node_unacked_index", self._node_id), self._tag)
            pipe.srem(keys("node_acked", self._node_id), self._tag)
            pipe.delete(self._list)
            pipe.zrem(keys("lost"), self.job_id)
            pipe.execute()

    def _fail(self) -> None:
        app, task_id, at = self._plugin.app, self._task_id, self._node_id or "(none)"
        text = f"job {self.job_id} of task {task_id}, last at node {at}: {self._reason}"
        exc = _lost(self._status, text)
        logger.error("%s: %s", type(exc).__name__, exc)
        try:
            raise exc
        except Exception:
            einfo = ExceptionInfo()
        request = _request(app, self._message, self._node_id)
        if request:
            request.on_failure(einfo)
        else:
            app.backend.mark_as_failure(task_id, exc, request=Context({"id": task_id}))


def _is_retried(plugin: MinSched, job_id: str, task_id: str) -> bool:
    """Has another node sent a retry of the task, before it died during the report?"""
    latest = plugin.find_job(task_id)
    return latest is not None and latest.job_id != job_id


def _lost(status: str, text: str) -> Exception:
    return NodeLostError(text) if status == "lost" else MaxRescuesExceededError(text)


def _request(app: Celery, raw: dict[str, Any], node_id: str) -> Request | None:
    """Celery's request for the message, or ``None`` if the message cannot be read."""
    if not raw:
        return None
    with app.connection_for_read() as connection:
        connection.connect()  # once. The channel would retry for long
        try:
            message = connection.default_channel.Message(raw, channel=connection.default_channel)
            message.accept = prepare_accept_content(app.conf.accept_content)
            return Request(message, app=app, hostname=f"celery@{node_id}")
        except (RedisError, OperationalError):
            raise
        except Exception as exc:  # a message may contain anything
            logger.error(
                "the message of a lost job cannot be read; only its id is reported: %r", exc
            )
            return None
