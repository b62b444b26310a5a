"""One soak, from the first job to the verdict."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.exceptions import RedisError
from rich.console import Console

from celery_minsched import MinSched

from ..support.server import Server
from . import ledger, report, verdict
from .app import NODE_TTL, app
from .faults import Faults, Watch
from .fleet import Worker, make_fleet
from .load import Producer, plan

PATIENCE = 60.0  # seconds without any progress


@dataclass(frozen=True)
class Form:
    """The size of a soak."""

    jobs: int
    poisons: int
    seconds: float  # over which the jobs are sent


FORMS = {
    "full": Form(20_000, 8, 270),
    "short": Form(2_000, 2, 40),
    "quick": Form(700, 1, 14),
}


def soak(console: Console, form: Form, seed: int, server: Server, directory: Path) -> bool:
    """Run the soak. Returns true if all promises were kept."""
    plugin: MinSched | None = getattr(app, "minsched", None)
    with ExitStack() as stack:
        client = stack.enter_context(server.client())
        workers = make_fleet(directory, is_plain=plugin is None)
        for worker in workers:
            stack.callback(worker.close)
            worker.start()
        wait(lambda: all(worker.is_ready for worker in workers))
        watch = Watch(client, plugin.scheduler.keys, workers) if plugin else None
        faults = Faults(seed, workers, server, NODE_TTL, watch.expect if watch else None)
        producer = Producer(app, plan(seed, form.jobs, form.poisons, form.seconds))
        with running(faults, watch.update if watch else None):
            producer.run()
            faults.end()
            wait(lambda: is_quiet(client, producer, plugin), lambda: count_ready(client, producer))
            wait(lambda: all(worker.is_up and not worker.is_absent for worker in workers))
        promises = report.state_promises(plugin) if plugin else []
        stop(workers)
        results = verdict.results(client, list(producer.accepted))
        runs = ledger.read(directory / "ledger")
        evidence = verdict.Evidence(producer.accepted, ledger.by_task(runs), results)
        promises = verdict.Verdict(evidence, workers).promises + promises
        if plugin:
            promises.append(report.keys_promise(client))
            report.stories(console, evidence, plugin, promises)
        console.print(f"\n{len(producer.accepted)} jobs, {producer.refused} refused, seed {seed}")
        console.print(report.jobs_table(evidence))
        console.print(report.faults_table(faults))
        console.print(report.times_table(evidence, workers, watch.rescues if watch else []))
        console.print(report.promises_table(promises))
        return not any(promise.broken for promise in promises)


def wait(condition: Callable[[], bool], progress: Callable[[], int] = lambda: 0) -> None:
    """Wait until the condition holds, or until ``progress`` has not grown for ``PATIENCE``."""
    reached, since = 0, time.monotonic()
    while time.monotonic() - since < PATIENCE:
        with contextlib.suppress(RedisError):
            if condition():
                return
            if (now := progress()) > reached:
                reached, since = now, time.monotonic()
        time.sleep(0.5)


@contextmanager
def running(faults: Faults, watch: Callable[[], None] | None) -> Iterator[None]:
    """Context manager: a thread causes faults and calls ``watch``."""
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(0.05):
            faults.tick()
            if watch:
                watch()

    thread = threading.Thread(target=tick, name="faults")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def count_ready(client: redis.Redis, producer: Producer) -> int:
    """The number of jobs with a result."""
    results = verdict.results(client, list(producer.accepted))
    return sum(result.is_ready for result in results.values())


def is_quiet(client: redis.Redis, producer: Producer, plugin: MinSched | None) -> bool:
    """True if each job has a result, and no job runs or waits."""
    if count_ready(client, producer) < len(producer.accepted):
        return False
    if plugin is None:
        return True
    keys = plugin.scheduler.keys
    pending = [keys(name) for name in ("lines", "delayed", "rescues", "lost")]
    slots = sum(node.current_jobs for node in plugin.views.nodes())
    return slots == 0 and not client.exists(*pending) and not client.keys("minsched.*")


def stop(workers: Sequence[Worker]) -> None:
    """Stop all workers, and wait for their ends."""
    for worker in workers:
        worker.ask_to_stop()
    wait(lambda: all(worker.process and worker.process.poll() is not None for worker in workers))
