"""The tables of outcomes, faults, rescue times and promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

import redis
from rich.console import Console
from rich.table import Table

from celery_minsched import MinSched
from celery_minsched.consistency.checker import Checker

from ..support.all_keys import LASTING
from .faults import Faults, Rescue
from .fleet import Worker
from .ledger import Run
from .load import KINDS, POISON, Kind
from .verdict import Evidence, Promise

MOST_STORIES = 20  # printed for each broken promise

#: Each job has one of these outcomes.
OUTCOMES = (
    *("ended", "lost, reported", "given up", "revoked"),
    *("child killed", "other error", "no outcome"),
)
NOTES = ("ran again*", "reported lost after its end*")


def jobs_table(evidence: Evidence, kinds: Sequence[Kind] = KINDS) -> Table:
    """The jobs by kind and outcome. The columns of notes count some jobs a second time."""
    columns: dict[str, Counter[str]] = {name: Counter() for name in ("accepted", *OUTCOMES, *NOTES)}
    for task_id, job in evidence.jobs.items():
        kind, result, runs = job.kind.name, evidence.results[task_id], evidence.runs[task_id]
        columns["accepted"][kind] += 1
        columns[result.outcome][kind] += 1
        columns["ran again*"][kind] += len(runs) > len({run.message for run in runs})
        columns["reported lost after its end*"][kind] += result.is_lost and any(
            run.is_final for run in runs
        )
    table = Table(
        "kind",
        title="Outcomes of the jobs",
        title_justify="left",
        caption="accepted is the sum of the outcomes. A column with * counts some of these jobs",
        caption_justify="left",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for kind in [*kinds, POISON]:
        table.add_row(kind.name, *(str(count[kind.name]) for count in columns.values()))
    table.add_section()
    table.add_row("all", *(str(count.total()) for count in columns.values()))
    return table


def faults_table(faults: Faults) -> Table:
    """The faults and their numbers."""
    table = Table("fault", title="Faults", title_justify="left")
    table.add_column("times", justify="right")
    for fault, times in sorted(faults.done.items()):
        table.add_row(fault, str(times))
    return table


def times_table(evidence: Evidence, workers: list[Worker], rescues: list[Rescue]) -> Table:
    """Seconds from a node's death until its jobs were rescued, and until they ran again."""
    table = Table("seconds after its node's death", title="Rescues", title_justify="left")
    for name in ("deaths", "jobs", "not yet", "median", "maximum"):
        table.add_column(name, justify="right")
    if rescues:
        seconds = [second for rescue in rescues for second in rescue.seconds]
        left = sum(len(rescue.jobs) for rescue in rescues)
        deaths = sum(rescue.count > 0 for rescue in rescues)
        table.add_row("until a job was placed again or reported", *_row(deaths, seconds, left))
    again, never, nodes = times_until_run_again(evidence, workers)
    table.add_row("until a late-acknowledged job ran again", *_row(nodes, again, never))
    return table


def _row(deaths: int, seconds: list[float], left: int) -> list[str]:
    spread = [f"{median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["", ""]
    return [str(deaths), str(len(seconds) + left), str(left), *spread]


def times_until_run_again(
    evidence: Evidence, workers: list[Worker]
) -> tuple[list[float], int, int]:
    """For the interrupted runs: the seconds from the death until the message ran again, the number
    of messages that never ran again, and the number of deaths.
    """
    seconds, never, deaths = [], 0, set()
    absences = {worker.name: worker.absences for worker in workers}
    for task_id, job in evidence.jobs.items():
        if not job.kind.is_late:
            continue
        runs = evidence.runs[task_id]
        for number, run in enumerate(runs):
            death = next((a for a in absences[run.node_id] if a.since > run.began), None)
            if death is None or (run.ended and run.ended < death.since):
                continue
            again = _next_run(run, runs[number + 1 :])
            if again:
                seconds.append(again.began - death.since)
            elif run.ended is None and not evidence.results[task_id].is_given_up:
                never += 1
            else:
                continue  # the run continued after a pause, or the job was given up
            deaths.add((run.node_id, death.since))
    return seconds, never, len(deaths)


def _next_run(run: Run, later: list[Run]) -> Run | None:
    return next((other for other in later if other.message == run.message), None)


def promises_table(promises: list[Promise]) -> Table:
    """The promises, and how often each was broken."""
    table = Table("promise", title="Promises", title_justify="left")
    for name in ("checked", "broken"):
        table.add_column(name, justify="right")
    for promise in promises:
        broken = f"[red]{len(promise.broken)}[/]" if promise.broken else "0"
        table.add_row(promise.text, str(promise.checked), broken)
    return table


def state_promises(plugin: MinSched) -> list[Promise]:
    """The promises about the scheduler's state when no job is left."""
    slots = Promise("all slots are free")
    for node in plugin.views.nodes():
        slots.check(node.current_jobs == 0, f"{node.node_id} holds {node.current_jobs}")
    consistent = Promise("the check finds no violation")
    violations = Checker(plugin.views).check()
    consistent.check(not violations, "; ".join(f"{b.sentence} {b.keys}" for b in violations))
    return [slots, consistent]


def keys_promise(client: redis.Redis) -> Promise:
    """The promise about the keys in Redis when all workers have stopped."""
    promise = Promise("each key has a TTL or a known purpose")
    reasons = [known.replace("n1", "n[1-6]").replace("asr", "soak") for known in LASTING]
    pattern = "|".join([*reasons, r"_kombu\.binding_deadlines"])  # a key of kombu
    for key in client.scan_iter(count=1000):
        lasts = client.ttl(key) == -1 and not re.fullmatch(pattern, key)
        promise.check(not lasts, f"{key} {contents(client, key)}" if lasts else "")
    return promise


def contents(client: redis.Redis, key: str) -> str:
    """The first elements of a key's value."""
    readers = {
        "hash": client.hgetall,
        "zset": lambda key: client.zrange(key, 0, 4, withscores=True),
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, 4),
    }
    return str(readers.get(client.type(key), client.get)(key))[:2000]


def story(evidence: Evidence, plugin: MinSched | None, task_id: str) -> str:
    """The runs, the result and the job of a task."""
    job = evidence.jobs[task_id]
    lines = [f"{task_id}: {job.kind.name}, priority {job.priority!r}, {evidence.results[task_id]}"]
    lines += [
        f"  ran at {run.node_id} {run.began:.2f} to {run.ended or 0:.2f} {run.outcome}, "
        f"message {run.message}, retry {run.retries}"
        for run in evidence.runs[task_id]
    ]
    if plugin:
        lines.append(f"  {plugin.find_job(task_id)!r}")
    return "\n".join(lines)


def stories(
    console: Console, evidence: Evidence, plugin: MinSched | None, promises: list[Promise]
) -> None:
    """Print a story for each job that broke a promise."""
    for promise in promises:
        for broken in promise.broken[:MOST_STORIES]:
            text = story(evidence, plugin, broken) if broken in evidence.jobs else broken
            console.print(f"\nBroken: {promise.text}\n{text}", markup=False)
