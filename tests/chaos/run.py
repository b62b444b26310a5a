"""One run of chaos, from the first job to the verdict."""

from __future__ import annotations

import signal
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from celery_minsched import MinSched

from ..soak import ledger, report, verdict
from ..soak.app import NODE_TTL
from ..soak.load import plan
from ..soak.run import Form, count_ready, is_quiet, running, stop, wait
from ..soak.verdict import Promise
from ..support.server import Server
from .app import app
from .deaths import Deaths
from .faults import IMPATIENT, ChaosFaults
from .fleet import Node, make_fleet
from .load import KINDS, PRIORITIES, ChaosProducer
from .verdict import Verdict

FORMS = {
    "full": Form(3_600, 6, 430),
    "short": Form(450, 1, 55),
}


def chaos(console: Console, form: Form, seed: int, server: Server, directory: Path) -> bool:
    """Run chaos. Returns true if all promises were kept."""
    plugin: MinSched = app.minsched
    with ExitStack() as stack:
        client = stack.enter_context(server.client(**IMPATIENT))
        nodes = make_fleet(directory, server)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited by a node until it has a handler
        for node in nodes:
            stack.callback(node.close)
            node.start()
        wait(lambda: all(node.is_ready for node in nodes))
        deaths = Deaths(client, plugin.scheduler.keys)
        faults = ChaosFaults(seed, nodes, server, NODE_TTL)
        jobs = plan(seed, form.jobs, form.poisons, form.seconds, KINDS, PRIORITIES)
        producer = ChaosProducer(app, jobs)
        with running(faults, deaths.update):
            producer.run()
            faults.end()
            wait(lambda: is_quiet(client, producer, plugin), lambda: count_ready(client, producer))
            wait(lambda: are_back(nodes, plugin))
        promises = [*report.state_promises(plugin), back_promise(nodes, plugin), stop_all(nodes)]
        results = verdict.results(client, list(producer.accepted))
        runs = ledger.read(directory / "ledger")
        ends = ends_of(nodes, deaths)
        evidence = verdict.Evidence(producer.accepted, ledger.by_task(runs), results)
        judged = Verdict(evidence, ends, faults.killed_children)
        alone = Promise("no node ends by itself", faults.done.total(), faults.ended_alone)
        promises = [*judged.promises, *promises, alone, report.keys_promise(client)]
        report.stories(console, evidence, plugin, promises)
        console.print(f"\n{len(producer.accepted)} jobs, {producer.refused} refused, seed {seed}")
        console.print(report.jobs_table(evidence, KINDS))
        console.print(report.faults_table(faults))
        again = f"{judged.ran_again} late jobs began again because their node had died"
        console.print(f"{again}. This is allowed.")
        console.print(report.promises_table(promises))
        return not any(promise.broken for promise in promises)


def are_back(nodes: list[Node], plugin: MinSched) -> bool:
    """True if all nodes take jobs."""
    return all(node.is_up for node in nodes) and not absent(nodes, plugin)


def absent(nodes: list[Node], plugin: MinSched) -> set[str]:
    """The nodes that take no jobs."""
    return {node.name for node in nodes} - {
        view.node_id for view in plugin.views.nodes() if view.online
    }


def back_promise(nodes: list[Node], plugin: MinSched) -> Promise:
    """The promise about the nodes when no job is left."""
    promise = Promise("a node takes jobs again")
    absent_nodes = absent(nodes, plugin)
    for node in nodes:
        promise.check(node.name not in absent_nodes, f"{node.name} takes no jobs")
    return promise


def stop_all(nodes: list[Node]) -> Promise:
    """Stop all nodes. Returns the promise about their ends."""
    promise = Promise("a node stops after SIGTERM")
    stop(nodes)
    for node in nodes:
        promise.check(not node.main, f"{node.name} does not stop")
    return promise


def ends_of(nodes: list[Node], deaths: Deaths) -> dict[str, list[float]]:
    """The times at which each node died, was declared dead, or killed its tasks."""
    ends = defaultdict(list, {name: list(times) for name, times in deaths.of.items()})
    for node in nodes:
        ends[node.name] += [away.since for away in node.absences if away.cause != "SIGSTOP"]
    return ends
