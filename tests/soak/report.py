"""The tables: what became of the jobs, how long rescues took, and what was promised."""

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
from .verdict import Promise, Verdict

MOST_STORIES = 20  # told of one broken promise

#: The outcomes that a caller may get: one of these for each job.
OUTCOMES = ("ended", "lost, told", "given up", "revoked", "child killed", "other error", "silent")
NOTES = ("ran anew*", "told lost after its end*")


def jobs_table(verdict: Verdict, kinds: Sequence[Kind] = KINDS) -> Table:
    """What became of the jobs, by kind: one outcome for each, and notes that count some again."""
    columns: dict[str, Counter[str]] = {name: Counter() for name in ("accepted", *OUTCOMES, *NOTES)}
    for task_id, job in verdict.jobs.items():
        kind, result, runs = job.kind.name, verdict.results[task_id], verdict.runs[task_id]
        columns["accepted"][kind] += 1
        columns[result.outcome][kind] += 1
        columns["ran anew*"][kind] += len(runs) > len({run.message for run in runs})
        columns["told lost after its end*"][kind] += result.is_lost and any(
            run.is_final for run in runs
        )
    table = Table(
        "kind",
        title="What became of the jobs",
        title_justify="left",
        caption="accepted is the sum of the outcomes. * counts jobs that have an outcome, too",
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
    """What befell workers and Redis."""
    table = Table("fault", title="Faults", title_justify="left")
    table.add_column("times", justify="right")
    for what, times in sorted(faults.done.items()):
        table.add_row(what, str(times))
    return table


def times_table(verdict: Verdict, workers: list[Worker], rescues: list[Rescue]) -> Table:
    """Seconds from a node's death until its jobs were seen to, and until they ran again."""
    table = Table("seconds after its node's death", title="Rescues", title_justify="left")
    for name in ("deaths", "jobs", "not yet", "median", "maximum"):
        table.add_column(name, justify="right")
    if rescues:
        seconds = [second for rescue in rescues for second in rescue.seconds]
        left = sum(len(rescue.jobs) for rescue in rescues)
        deaths = sum(rescue.count > 0 for rescue in rescues)
        table.add_row("until a job was placed anew, or told of", *_row(deaths, seconds, left))
    again, never, nodes = times_until_run_again(verdict, workers)
    table.add_row("until one acknowledged late ran again", *_row(nodes, again, never))
    return table


def _row(deaths: int, seconds: list[float], left: int) -> list[str]:
    spread = [f"{median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["", ""]
    return [str(deaths), str(len(seconds) + left), str(left), *spread]


def times_until_run_again(verdict: Verdict, workers: list[Worker]) -> tuple[list[float], int, int]:
    """For each run that was cut short: seconds from the death until the message ran again; how many
    never did; and how many deaths there were.
    """
    seconds, never, deaths = [], 0, set()
    absences = {worker.name: worker.absences for worker in workers}
    for task_id, job in verdict.jobs.items():
        if not job.kind.is_late:
            continue
        runs = verdict.runs[task_id]
        for number, run in enumerate(runs):
            death = next((a for a in absences[run.node_id] if a.since > run.began), None)
            if death is None or (run.ended and run.ended < death.since):
                continue
            again = _next_run(run, runs[number + 1 :])
            if again:
                seconds.append(again.began - death.since)
            elif run.ended is None and not verdict.results[task_id].is_given_up:
                never += 1
            else:
                continue  # it went on after a pause, or was the last of too many
            deaths.add((run.node_id, death.since))
    return seconds, never, len(deaths)


def _next_run(run: Run, later: list[Run]) -> Run | None:
    return next((other for other in later if other.message == run.message), None)


def promises_table(promises: list[Promise]) -> Table:
    """What was promised, and how often it was broken."""
    table = Table("promise", title="Promises", title_justify="left")
    for name in ("looked at", "broken"):
        table.add_column(name, justify="right")
    for promise in promises:
        broken = f"[red]{len(promise.broken)}[/]" if promise.broken else "0"
        table.add_row(promise.text, str(promise.looked_at), broken)
    return table


def state_promises(plugin: MinSched) -> list[Promise]:
    """What must be true of the scheduler when all is quiet."""
    slots = Promise("all slots are free")
    for node in plugin.views.nodes():
        slots.check(node.current_jobs == 0, f"{node.node_id} holds {node.current_jobs}")
    sound = Promise("the check finds nothing")
    violations = Checker(plugin.views).check()
    sound.check(not violations, "; ".join(f"{b.sentence} {b.keys}" for b in violations))
    return [slots, sound]


def keys_promise(client: redis.Redis) -> Promise:
    """What must be true of Redis when all workers have stopped."""
    promise = Promise("no key is left behind: a TTL, or a reason")
    reasons = [known.replace("n1", "n[1-6]").replace("asr", "soak") for known in LASTING]
    pattern = "|".join([*reasons, r"_kombu\.binding_deadlines"])  # one key, of kombu's own
    for key in client.scan_iter(count=1000):
        lasts = client.ttl(key) == -1 and not re.fullmatch(pattern, key)
        promise.check(not lasts, f"{key} {contents(client, key)}" if lasts else "")
    return promise


def contents(client: redis.Redis, key: str) -> str:
    """Some of what a key holds."""
    read = {
        "hash": client.hgetall,
        "zset": lambda key: client.zrange(key, 0, 4, withscores=True),
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, 4),
    }
    return str(read.get(client.type(key), client.get)(key))[:2000]


def story(verdict: Verdict, plugin: MinSched | None, task_id: str) -> str:
    """All that is known of one task."""
    job = verdict.jobs[task_id]
    lines = [f"{task_id}: {job.kind.name}, priority {job.priority!r}, {verdict.results[task_id]}"]
    lines += [
        f"  ran at {run.node_id} {run.began:.2f} to {run.ended or 0:.2f} {run.outcome}, "
        f"message {run.message}, retry {run.retries}"
        for run in verdict.runs[task_id]
    ]
    if plugin:
        lines.append(f"  {plugin.where(task_id)!r}")
    return "\n".join(lines)


def stories(
    console: Console, verdict: Verdict, plugin: MinSched | None, promises: list[Promise]
) -> None:
    """What is known of each job for which a promise was broken."""
    for promise in promises:
        for what in promise.broken[:MOST_STORIES]:
            text = story(verdict, plugin, what) if what in verdict.jobs else what
            console.print(f"\nBroken: {promise.text}\n{text}", markup=False)
