"""What each page shows, made of views: plain data, ready for JSON.

An answer has ``texts`` (by the name of the place that shows it), ``lists`` of texts, and
``tables`` of rows, each with an ``id`` of its own. Ages are seconds. Nothing here is escaped: the
page writes text as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..views import JobView, LineView, NodeView, Views
from ..why import why

Answer = dict[str, Any]

#: Jobs in line, and events, that a page shows.
MOST_ROWS = 200
#: Of one line, so that a long one does not hide the others.
MOST_OF_A_LINE = 50


def nodes(views: Views, _of: str) -> Answer:
    """All nodes."""
    now, found = views.now(), views.nodes()
    online = [node for node in found if node.online]
    return {
        "texts": {
            "nodes": f"{len(online):,} / {len(found):,}",
            "slots": f"{sum(node.current_jobs for node in online):,} / "
            f"{sum(node.max_jobs for node in online):,}",
            "waiting": f"{sum(line.waiting for line in views.lines()):,}",
            "dead": f"{sum(node.state in ('dead', 'stuck') for node in found):,}",
        },
        "tables": {"nodes": [_node(node, now) for node in found]},
    }


def _node(node: NodeView, now: int) -> dict[str, Any]:
    load = {
        name: round(float(value))
        for name in ("cpu", "gpu", "mem")
        if isinstance(value := node.load.get(name), int | float)
    }
    return {
        "id": node.node_id,
        "state": node.state,
        "taken": node.current_jobs,
        "slots": node.max_jobs,
        "load": load,
        "pools": node.pools,
        "capabilities": node.capabilities,
        "silent": _age(node.last_heartbeat_ts, now),
    }


def node(views: Views, of: str) -> Answer:
    """One node, and the jobs that hold its slots."""
    now, found = views.now(), views.node(of)
    if found is None:
        return {"texts": {"state": "unknown"}, "tables": {"jobs": []}}
    row = _node(found, now)
    load = ", ".join(f"{name} {value} %" for name, value in row["load"].items())
    return {
        "texts": {
            "state": found.state,
            "slots": f"{found.current_jobs} / {found.max_jobs}",
            "pools": ", ".join(found.pools),
            "capabilities": ", ".join(found.capabilities),
            "load": load,
            "heartbeat": row["silent"],
            "instance": found.instance,
        },
        "tables": {"jobs": [_job(job, now) for job in views.jobs_at(of)]},
    }


def _job(job: JobView, now: int) -> dict[str, Any]:
    since = job.started_ts or job.dispatched_ts
    return {
        "id": job.job_id,
        "task": job.task,
        "task_id": job.task_id,
        "state": job.status,
        "pool": job.pool,
        "session": job.session_id,
        "age": _age(job.waiting_ts if job.status == "waiting" else since, now),
    }


def pools(views: Views, _of: str) -> Answer:
    """All pools."""
    rows = [
        {
            "id": pool.pool,
            "state": "paused" if pool.paused else "open" if pool.slots else "no slots",
            "online": pool.online,
            "nodes": pool.nodes,
            "taken": pool.taken,
            "slots": pool.slots,
            "waiting": pool.waiting,
            "load": round(pool.load, 2),
            "langs": pool.langs,
        }
        for pool in views.pools()
    ]
    return {"tables": {"pools": rows}}


def waiting(views: Views, _of: str) -> Answer:
    """All lines, and the first jobs in each."""
    now, lines = views.now(), views.lines()
    rows: list[dict[str, Any]] = []
    jobs: list[dict[str, Any]] = []
    for line in lines:
        asks_for = _asks_for(line)
        rows.append(
            {
                "id": line.name,
                "asks_for": asks_for,
                "state": "busy" if line.possible else "impossible",
                "waiting": line.waiting,
                "age": _age(line.oldest_ts, now),
            }
        )
        most = min(MOST_OF_A_LINE, MOST_ROWS - len(jobs))
        jobs += [
            {**_job(job, now), "asks_for": asks_for, "place": place}
            for place, job in enumerate(views.in_line(line.name, most) if most else (), 1)
        ]
    total = sum(line.waiting for line in lines)
    return {
        "texts": {
            "waiting": f"{total:,}",
            "impossible": f"{sum(line.waiting for line in lines if not line.possible):,}",
            "oldest": max((row["age"] for row in rows), default=0),
            "shown": f"the first {len(jobs)} of {total:,}" if len(jobs) < total else "all",
        },
        "tables": {"lines": rows, "jobs": jobs},
    }


def _asks_for(line: LineView) -> str:
    required = [f"node {line.required_node}"] if line.required_node else []
    return ", ".join([*line.where.split("="), *line.capabilities, *required])


def events(views: Views, _of: str) -> Answer:
    """What happened, the latest first."""
    now = views.now()
    rows = [
        {
            "id": event.event_id,
            "ts": event.ts,
            "age": _age(event.ts, now),
            "state": event.kind,
            "fields": event.fields,
        }
        for event in reversed(views.events(limit=MOST_ROWS))
    ]
    return {"tables": {"events": rows}}


def explain(views: Views, of: str) -> Answer:
    """Why a task is where it is."""
    if not of:
        return {}
    said = why(views, of)
    job = said.job
    return {
        "texts": {
            "state": said.verdict,
            "demand": said.demand,
            "task": job.task if job else "",
            "job": job.job_id if job else "",
            "node": job.node_id if job else "",
            "line": "" if said.place_in_line is None else f"{said.place_in_line + 1}",
        },
        "lists": {"story": said.story},
        "tables": {
            "candidates": [
                {
                    "id": node.node_id,
                    "state": node.obstacle or "free",
                    "fits": not node.obstacle,
                    "taken": node.taken,
                    "slots": node.slots,
                    "load": {name: round(value) for name, value in node.load.items()},
                }
                for node in said.candidates
            ]
        },
    }


def _age(since: int, now: int) -> int:
    """Whole seconds from one time to the other, both ms; 0 where it has not happened."""
    return max(now - since, 0) // 1000 if since else 0


#: By the name of the page.
ANSWERS: dict[str, Callable[[Views, str], Answer]] = {
    "nodes": nodes,
    "node": node,
    "pools": pools,
    "waiting": waiting,
    "events": events,
    "why": explain,
}
