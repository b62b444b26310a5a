"""The application of the tests' nodes. It has a task for each way in which a task can end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import redis.retry
from celery import Celery, signals
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, Reject

from celery_minsched import MaxRescuesExceededError, MinSched, NodeLostError, still_mine

from . import hangs  # noqa: F401 - registers its remote control commands
from .pipes import writable_pipes
from .together import Together

#: Seconds. Celery (5.7) stores RETRY after it sends the retry, even over a quick SUCCESS.
RETRY_DELAY = 0.5

url = os.environ["MINSCHED_TEST_BROKER"]
app = Celery("tests", broker=url, backend=url)
app.conf.update(json.loads(os.environ.get("MINSCHED_TEST_CONF", "{}")))
MinSched(app)
if procfs := os.environ.get("MINSCHED_TEST_PROCFS"):  # a directory without the files of /proc
    psutil.PROCFS_PATH = procfs
if os.environ.get("MINSCHED_TEST_RETRY_AT_ONCE"):  # redis-py pauses for seconds between attempts
    redis.retry.sleep = lambda seconds: None


@signals.task_revoked.connect
def _on_revoked(request: Any, expired: bool, **_: Any) -> None:
    """Write down that a task will not run, and the reason."""
    app.backend.client.rpush(f"test:revoked:{request.id}", "expired" if expired else "revoked")


def scheduled(**options: Any) -> Any:
    """A bound task of pool "asr"."""
    return app.task(bind=True, minsched={"pool": "asr"}, **options)


@scheduled()
def where_am_i(self: Any, pause: float = 0.0) -> dict[str, Any]:
    """The node and the job of the task, as the task reads them."""
    time.sleep(pause)
    return {"minsched": self.request.minsched, "hostname": self.request.hostname}


@scheduled()
def note(self: Any, name: str, pause: float = 0.0) -> str:
    return _note(self.request.hostname, name, pause)


@scheduled(ignore_result=True)
def works(self: Any, path: str) -> None:
    _work(self.request.hostname, path)


@scheduled(acks_late=True, ignore_result=True)
def works_late(self: Any, path: str) -> None:
    _work(self.request.hostname, path)


@scheduled(ignore_result=True)
def asks_blindly(self: Any, path: str) -> None:
    """Call ``still_mine`` until Redis is away. Write down the answer."""
    _write(f"{path}.began", self.request.hostname)
    answer = ""
    while not answer and not os.path.exists(path):
        try:
            still_mine()
        except Exception as exc:
            answer = type(exc).__name__
        time.sleep(0.1)
    _write(f"{path}.ended", answer)


def _work(hostname: str, path: str) -> None:
    """Run until the file exists, without Redis. Two other files note the begin and the end."""
    _write(f"{path}.began", hostname)
    while not os.path.exists(path):
        time.sleep(0.02)
    _write(f"{path}.ended", hostname)


def _write(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@scheduled(ignore_result=True)
def mark(self: Any, list_name: str, text: Any, pause: float = 0.0) -> None:
    """Append ``text`` to a list. The list shows the order of the calls."""
    app.backend.client.rpush(f"test:marks:{list_name}", text)
    time.sleep(pause)


@scheduled()
def digest(self: Any, text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@scheduled(acks_late=True)
def note_late(self: Any, name: str, pause: float = 0.0) -> str:
    return _note(self.request.hostname, name, pause)


def _note(hostname: str, name: str, pause: float) -> str:
    """Write down the node before and after a pause."""
    client = app.backend.client
    client.rpush(f"test:began:{name}", hostname)
    time.sleep(pause)
    client.rpush(f"test:ended:{name}", hostname)
    return name


@scheduled()
def hold(self: Any, name: str) -> None:
    """Write down that the task runs, and run until the test releases it."""
    _hold(self.request.hostname, name)


@scheduled(acks_late=True)
def hold_late(self: Any, name: str) -> None:
    _hold(self.request.hostname, name)


@scheduled(acks_late=True)
def asks_late(self: Any, name: str) -> None:
    """Hold, and then call ``still_mine``."""
    _hold(self.request.hostname, name)
    answer = f"{self.request.hostname} {still_mine()}"
    app.backend.client.rpush(f"test:mine:{name}", answer)


@scheduled(acks_late=True, ignore_result=True)
def hold_by_file(self: Any, path: str, requeue: bool = False) -> None:
    """Run until the file exists, without Redis. Then requeue the message once."""
    while not os.path.exists(path):
        time.sleep(0.02)
    if requeue and not os.path.exists(f"{path}.again"):
        Path(f"{path}.again").touch()
        raise Reject("again", requeue=True)


@scheduled(retry_on_worker_lost=True, default_retry_delay=RETRY_DELAY)
def hold_and_retry(self: Any, name: str) -> str:
    if not self.request.retries:
        _hold(self.request.hostname, name)
    return "second time"


def _hold(hostname: str, name: str) -> None:
    client = app.backend.client
    client.rpush(f"test:began:{name}", hostname)
    client.blpop(f"test:release:{name}", 30)
    client.rpush(f"test:ended:{name}", hostname)


@scheduled(acks_late=True)
def kills_its_node(self: Any) -> None:
    """Kill the agent. In a pool of threads, this process is the agent."""
    app.backend.client.rpush("test:killers", self.request.hostname)
    os.kill(os.getpid(), signal.SIGKILL)


@scheduled(rate_limit="2/s")
def rarely(self: Any) -> None:
    """The worker delays a second call."""


@scheduled(rate_limit="6/h")
def hourly(self: Any) -> None:
    """The worker delays a second call for ten minutes."""


@app.task(base=Together, minsched={"pool": "asr"})
def together() -> None:
    """Never runs: its strategy handles the messages."""


@scheduled(acks_late=True)
def late(self: Any) -> str:
    return "late"


@scheduled()
def fails(self: Any) -> None:
    raise ValueError("no luck")


@scheduled(acks_late=True, acks_on_failure=False)
def fails_late(self: Any) -> None:
    raise ValueError("no luck")


@scheduled(max_retries=2)
def retries(self: Any, countdown: float = 0.2) -> dict[str, Any]:
    """Succeeds at the third attempt. Returns the task's node and job.

    A delay is necessary: Celery (5.7) stores RETRY after it sends the retry, even over SUCCESS.
    """
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return dict(self.request.minsched)


@scheduled()
def ignores(self: Any) -> None:
    raise Ignore


@scheduled()
def rejects(self: Any) -> None:
    raise Reject("no")


@scheduled(acks_late=True)
def requeues(self: Any) -> str:
    """Requeue the message once."""
    if app.backend.client.incr(f"test:requeues:{self.request.id}") == 1:
        raise Reject("again", requeue=True)
    return "second time"


@scheduled(acks_late=True)
def requeues_until(self: Any, list_name: str) -> list[bool]:
    """Requeue the message until another task has run.

    Returns for each delivery if it was a redelivery.
    """
    client, deliveries = app.backend.client, f"test:deliveries:{self.request.id}"
    client.rpush(deliveries, int(self.request.delivery_info["redelivered"]))
    if not client.exists(f"test:marks:{list_name}") and client.llen(deliveries) < 50:
        raise Reject("not yet", requeue=True)
    return [number == b"1" for number in client.lrange(deliveries, 0, -1)]


@scheduled(acks_late=True)
def stores_and_kills_its_node(self: Any) -> str:
    """Store the success, and then kill the node. The parent of this process is the agent."""
    app.backend.client.rpush(f"test:ran:{self.request.id}", self.request.hostname)
    self.backend.store_result(self.request.id, "first", "SUCCESS")
    os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
    time.sleep(30)
    return "second"


@scheduled()
def requeues_early(self: Any) -> str:
    raise Reject("too late", requeue=True)


@scheduled(soft_time_limit=0.3)
def too_long_softly(self: Any) -> None:
    time.sleep(30)


@scheduled(time_limit=0.3)
def too_long(self: Any) -> None:
    time.sleep(30)


@scheduled(time_limit=0.3, acks_late=True, acks_on_timeout=False)
def too_long_once(self: Any) -> str:
    """The time limit kills the task once. Then Celery delivers the message again."""
    if app.backend.client.incr(f"test:too_long:{self.request.id}") == 1:
        time.sleep(30)
    return "second time"


@scheduled()
def killed(self: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@scheduled(acks_late=True)
def killed_late(self: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@scheduled(acks_late=True, reject_on_worker_lost=True)
def killed_and_requeued(self: Any) -> str:
    if app.backend.client.incr(f"test:killed:{self.request.id}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


@scheduled(retry_on_worker_lost=True, default_retry_delay=RETRY_DELAY)
def killed_and_retried(self: Any) -> str:
    if self.request.retries == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


@scheduled(backend=RedisBackend(app=app, url="redis://127.0.0.1:1/0"))
def cannot_be_stored(self: Any) -> None:
    """The result backend does not answer."""


@scheduled()
def seems_to_end(self: Any) -> None:
    """Close the pipe to the pool, like a process that exits slowly."""
    parent = writable_pipes(os.getppid())
    for inode, fd in writable_pipes(os.getpid()).items():
        if inode not in parent:
            os.close(fd)


@scheduled(backend=RedisBackend(app=app, url="redis://127.0.0.1:1/0"))
def hold_unstorable(self: Any, name: str) -> None:
    """Run until the test releases the task. Its result cannot be stored."""
    _hold(self.request.hostname, name)


@scheduled()
def exits(self: Any) -> None:
    sys.exit(3)


@scheduled()
def out_of_memory(self: Any) -> None:
    raise MemoryError


@scheduled()
def add(self: Any, *numbers: Any) -> Any:
    """Sum of numbers, and of lists of them (a chord's results)."""
    return sum(sum(n) if isinstance(n, list) else n for n in numbers)


@scheduled()
def replaced(self: Any, number: int) -> Any:
    raise self.replace(add.s(number, 100))


@app.task
def errback(request: Any, exc: Any, traceback: Any) -> None:
    """Write down that a task failed. The worker calls this."""
    app.backend.client.rpush("test:errback", f"{request.id} {type(exc).__name__}")


@signals.task_failure.connect
def note_failure(task_id: str, exception: Exception, **_: Any) -> None:
    """Write down the lost jobs that this node reported."""
    if isinstance(exception, NodeLostError | MaxRescuesExceededError):
        report = f"{task_id} {type(exception).__name__}"
        app.backend.client.rpush("test:task_failure", report)


@app.task(bind=True)
def anywhere(self: Any) -> Any:
    """A task without a demand."""
    return getattr(self.request, "minsched", None)


@scheduled()
def hogs(self: Any, seconds: float) -> None:
    """Hold the interpreter lock, as a C extension may."""
    client = app.backend.client
    client.rpush("test:hogging", self.request.hostname)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # other threads of this process do not run
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            sum(range(1000))
    finally:
        sys.setswitchinterval(before)
