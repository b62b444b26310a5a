"""What each page shows, made of views: plain data, ready for JSON.

An answer has ``texts`` (by the name of the place that shows it), ``lists`` of texts, and
``tables`` of rows, each with an ``id`` of its own. A table of which only the rows asked for are
sent has ``numbers``: how many rows match, and how many there are. Ages are seconds. Nothing here is
escaped: the page writes text as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..monitor.explain import why
from ..monitor.line_queries import MOST_LINES
from ..monitor.models import JobView, LineView, NodeView, PoolView
from ..monitor.queries import Views
from .paging import FIRST, MOST_ROWS, Asked, natural, part_of

Answer = dict[str, Any]

#: Of one line, so that a long one does not hide the others.
MOST_OF_A_LINE = 50

#: Names in one cell: pools, capabilities, language pairs; and fields of an event.
MOST_NAMES = 20
MOST_FIELDS = 20

#: Characters of one text.
MOST_TEXT = 2000

#: The states of nodes in the order in which the page shows them.
RANK = ("broken", "dead", "stuck", "stopping", "draining", "starting", "full", "free", "left")

#: The states that the page counts as faults.
ALARMING = ("broken", "dead", "stuck")

#: By what the columns of each table are sorted.
NODE_ORDERS: dict[str, Callable[[NodeView], Any]] = {
    "node": lambda node: natural(node.node_id),
    "state": lambda node: RANK.index(node.state),
    "slots": lambda node: node.current_jobs / max(node.max_jobs, 1),
    "load": lambda node: sum(_load(node).values()),
    "pools": lambda node: node.pools,
    "capabilities": lambda node: node.capabilities,
    "heard": lambda node: -node.last_heartbeat_ts,
}
POOL_ORDERS: dict[str, Callable[[PoolView], Any]] = {
    "pool": lambda pool: natural(pool.pool),
    "state": lambda pool: _pool_state(pool),
    "slots": lambda pool: pool.taken / max(pool.slots, 1),
    "waiting": lambda pool: pool.waiting,
    "load": lambda pool: pool.load,
    "online": lambda pool: pool.online,
    "languages": lambda pool: pool.langs,
}
LINE_ORDERS: dict[str, Callable[[LineView], Any]] = {
    "line": lambda line: _asks_for(line),
    "state": lambda line: line.possible,
    "jobs": lambda line: line.waiting,
    "oldest": lambda line: -line.oldest_ts,
}


def nodes(views: Views, _of: str = "", asked: Asked = FIRST) -> Answer:
    """All nodes."""
    now, found = views.now(), views.nodes()
    online = [node for node in found if node.online]
    found.sort(key=lambda node: (RANK.index(node.state), natural(node.node_id)))
    part = part_of(found, asked, NODE_ORDERS, _text_of_node)
    return {
        "texts": {
            "nodes": f"{len(online):,} / {len(found):,}",
            "slots": f"{sum(node.current_jobs for node in online):,} / "
            f"{sum(node.max_jobs for node in online):,}",
            "waiting": f"{views.waiting_count():,}",
            "dead": f"{sum(node.state in ALARMING for node in found):,}",
        },
        "tables": {"nodes": [_node(node, now) for node in part.rows]},
        "numbers": {"nodes": part.numbers},
    }


def _text_of_node(node: NodeView) -> str:
    return " ".join((node.node_id, node.state, *node.pools, *node.capabilities))


def _some(names: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    left = len(names) - MOST_NAMES
    return names if left <= 0 else [*names[:MOST_NAMES], f"… and {left:,} more"]


def _load(node: NodeView) -> dict[str, int]:
    return {
        name: round(float(value))
        for name in ("cpu", "gpu", "mem")
        if isinstance(value := node.load.get(name), int | float)
    }


def _node(node: NodeView, now: int) -> dict[str, Any]:
    return {
        "id": node.node_id,
        "state": node.state,
        "taken": node.current_jobs,
        "slots": node.max_jobs,
        "load": _load(node),
        "pools": _some(node.pools),
        "capabilities": _some(node.capabilities),
        "silent": _age(node.last_heartbeat_ts, now),
    }


def node(views: Views, of: str, _asked: Asked = FIRST) -> Answer:
    """One node, and the first jobs that hold its slots."""
    now, found = views.now(), views.node(of)
    if found is None:
        return {"texts": {"state": "unknown"}, "tables": {"jobs": []}}
    row = _node(found, now)
    load = ", ".join(f"{name} {value} %" for name, value in row["load"].items())
    jobs = views.jobs(MOST_ROWS, node_id=of)
    return {
        "texts": {
            "state": found.state,
            "broken": found.broken,
            "slots": f"{found.current_jobs} / {found.max_jobs}",
            "pools": ", ".join(_some(found.pools)),
            "capabilities": ", ".join(_some(found.capabilities)),
            "load": load,
            "heartbeat": row["silent"],
            "instance": found.instance,
            "shown": _shown(len(jobs), found.current_jobs),
        },
        "tables": {"jobs": [_job(job, now) for job in jobs]},
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


def pools(views: Views, _of: str = "", asked: Asked = FIRST) -> Answer:
    """All pools."""
    part = part_of(
        views.pools(), asked, POOL_ORDERS, lambda pool: " ".join((pool.pool, *pool.langs))
    )
    rows = [
        {
            "id": pool.pool,
            "state": _pool_state(pool),
            "online": pool.online,
            "nodes": pool.nodes,
            "taken": pool.taken,
            "slots": pool.slots,
            "waiting": pool.waiting,
            "load": round(pool.load, 2),
            "langs": _some(pool.langs),
        }
        for pool in part.rows
    ]
    return {"tables": {"pools": rows}, "numbers": {"pools": part.numbers}}


def _pool_state(pool: PoolView) -> str:
    return "paused" if pool.paused else "open" if pool.slots else "no slots"


def waiting(views: Views, _of: str = "", asked: Asked = FIRST) -> Answer:
    """Lines, and the first jobs in each that is shown.

    The page looks at MOST_LINES lines: the first that Redis finds, or those whose names have the
    words asked for. How many jobs wait counts all lines.
    """
    now, lines = views.now(), views.lines(MOST_LINES, asked.find)
    total, line_count = views.waiting_count(), views.line_count()
    lines.sort(key=lambda line: line.oldest_ts)
    part = part_of(lines, asked._replace(find=""), LINE_ORDERS)
    jobs = [
        {**_job(job, now), "asks_for": _asks_for(line), "place": place}
        for line, found in zip(part.rows, _first_jobs(views, part.rows), strict=True)
        for place, job in enumerate(found, 1)
    ]
    return {
        "texts": {
            "waiting": f"{total:,}",
            "impossible": f"{sum(line.waiting for line in lines if not line.possible):,}",
            "oldest": max((_age(line.oldest_ts, now) for line in lines), default=0),
            "lines": _looked_at(lines, line_count, asked),
            "shown": _shown(len(jobs), total),
        },
        "tables": {"lines": [_line(line, now) for line in part.rows], "jobs": jobs},
        "numbers": {"lines": [part.matching, line_count]},
    }


def _first_jobs(views: Views, lines: list[LineView]) -> list[list[JobView]]:
    """The first jobs of each line, MOST_ROWS in all."""
    left, limits = MOST_ROWS, []
    for line in lines:
        limits.append(min(line.waiting, MOST_OF_A_LINE, left))
        left -= limits[-1]
    return views.in_lines([line.name for line in lines], limits)


def _line(line: LineView, now: int) -> dict[str, Any]:
    return {
        "id": line.name,
        "asks_for": _asks_for(line),
        "state": "busy" if line.possible else "impossible",
        "waiting": line.waiting,
        "age": _age(line.oldest_ts, now),
    }


def _looked_at(lines: Sequence[object], total: int, asked: Asked) -> str:
    return f"{len(lines):,} found, of {total:,}" if asked.find else _shown(len(lines), total)


def _shown(shown: int, total: int) -> str:
    return f"the first {shown:,} of {total:,}" if shown < total else "all"


def _asks_for(line: LineView) -> str:
    required = [f"node {line.required_node}"] if line.required_node else []
    return ", ".join([*line.where.split("="), *line.capabilities, *required])


def events(views: Views, _of: str = "", _asked: Asked = FIRST) -> Answer:
    """What happened, the latest first."""
    now = views.now()
    rows = [
        {
            "id": event.event_id,
            "ts": event.ts,
            "age": _age(event.ts, now),
            "state": event.kind,
            "fields": dict(list(event.fields.items())[:MOST_FIELDS]),
        }
        for event in reversed(views.events(limit=MOST_ROWS))
    ]
    return {"tables": {"events": rows}}


def explain(views: Views, of: str, _asked: Asked = FIRST) -> Answer:
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


def answer_of(page: str, views: Views, of: str, asked: Asked) -> Answer:
    """What the page shows. No text in it is longer than MOST_TEXT, whatever Redis holds."""
    answer: Answer = _cut(ANSWERS[page](views, of, asked))
    return answer


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MOST_TEXT else f"{value[:MOST_TEXT]}…"
    if isinstance(value, dict):
        return {_cut(name): _cut(each) for name, each in value.items()}
    return [_cut(each) for each in value] if isinstance(value, list) else value


def _age(since: int, now: int) -> int:
    """Whole seconds from one time to the other, both ms; 0 where it has not happened."""
    return max(now - since, 0) // 1000 if since else 0


#: By the name of the page.
ANSWERS: dict[str, Callable[[Views, str, Asked], Answer]] = {
    "nodes": nodes,
    "node": node,
    "pools": pools,
    "waiting": waiting,
    "events": events,
    "why": explain,
}
