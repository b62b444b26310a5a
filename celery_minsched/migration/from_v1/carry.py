"""Carries over what a survey has found, one thing at a time."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from ...core.field_types import MAX_OFFERS
from ...core.layout import LAYOUT, SPECIFIED
from ...core.models import DispatchRequest, RegisterNodeRequest
from ...core.reading import pages
from ...core.scheduler import MinimalSchedulerService
from ...monitor.queries import Views
from .history import History
from .survey import Survey, entries

#: Seconds from its creation for which a job that has not ended holds a slot. The specification does
#: not say when a job was lost, so that of some it never learnt.
HELD: Final = 3600.0

_SECONDS_UP_TO: Final = 10**11  # a time below this is in seconds, above in ms


def carry_over(
    service: MinimalSchedulerService,
    found: Survey,
    history: History,
    step: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Do it; ``step`` is called after each job.

    How many jobs are ``held`` at their nodes and how many ``history``; how many were ``written``.
    """
    client, keys = service.redis, service.keys
    client.set(keys("layout"), SPECIFIED, nx=True)  # nobody starts meanwhile
    for pair, pools in found.pairs.items():
        service.carry_language(pair, pools)
    now = Views(service.redis, service.keys).now()
    for node_id, pools in found.nodes.items():
        client.hset(keys("node_info", node_id), mapping=_node(service, node_id, pools, now))
    done: Counter[str] = Counter()
    jobs = (entry for entry in entries(service) if entry.name in ("job", "session"))
    for page in pages(jobs):
        _carry_sessions(service, [entry.key for entry in page if entry.name == "session"])
        done.update(_carry_jobs(service, [e.id for e in page if e.name == "job"], history, step))
    for node_id in found.nodes:
        service.repair_node(node_id)
    for node_id, pools in found.strays.items():
        service.repair_node(node_id, "".join(f"{pool}\t\n" for pool in pools))
    if int(client.get(keys("job_id_seq")) or 0) < found.last_number:
        client.set(keys("job_id_seq"), found.last_number)
    client.set(keys("layout"), LAYOUT)
    return done


def heartbeats(service: MinimalSchedulerService, found: Survey) -> dict[str, int]:
    """When each node was last heard, ms; 0 for never."""
    with service.redis.pipeline(transaction=False) as pipe:
        for node_id in found.nodes:
            pipe.hget(service.keys("node_info", node_id), "last_heartbeat_ts")
        answers = pipe.execute()
    told = zip(found.nodes, answers, strict=True)
    return {node_id: _milliseconds(_text(when or ""), 0) for node_id, when in told}


def _node(
    service: MinimalSchedulerService, node_id: str, pools: list[str], now: int
) -> dict[Any, Any]:
    """What is told of a node from now on: that it has left. It registers when it is started."""
    record = _record(service.redis.hgetall(service.keys("node_info", node_id)))
    capabilities = _capabilities(record)
    offers = [f"{pool}\t{cap}\n" for pool in pools for cap in ["", *capabilities]]
    if len(offers) > MAX_OFFERS:
        offers = [f"{pool}\t\n" for pool in pools[:MAX_OFFERS]]
    load = _json(record.get("load_json"))
    return {
        "online": "false",
        "draining": "false",
        "instance": "",
        "max_jobs": max(int(_number(record.get("max_jobs")) or 0), 1),
        "cap_json": json.dumps(capabilities),
        "pools_json": json.dumps(pools),
        "offers": "".join(offers),
        "speaks": "",
        "load_json": json.dumps(load if isinstance(load, dict) else {}),
        "last_heartbeat_ts": min(_milliseconds(record.get("last_heartbeat_ts"), now), now),
    }


def _capabilities(record: dict[str, str]) -> list[str]:
    """None where this version cannot read them: the node tells them when it registers."""
    try:
        return RegisterNodeRequest(
            node_id="any", max_jobs=1, pools_json='["any"]', cap_json=record.get("cap_json", "{}")
        ).capabilities
    except ValueError:
        return []


def _carry_sessions(service: MinimalSchedulerService, keys: list[str]) -> None:
    """They are what they were, and are forgotten when they are not used."""
    with service.redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.pttl(key)
        for key, ttl in zip(keys, pipe.execute(), strict=True):
            if ttl == -1:
                pipe.pexpire(key, round(1000 * service.settings.session_ttl))
        pipe.execute()


def _carry_jobs(
    service: MinimalSchedulerService, job_ids: list[str], history: History, step: Callable[[], None]
) -> Counter[str]:
    if not job_ids:
        return Counter()
    with service.redis.pipeline(transaction=False) as pipe:
        for job_id in job_ids:
            pipe.hgetall(service.keys("job", job_id))
        records = [_record(answer) for answer in pipe.execute()]
    jobs = [(job_id, record) for job_id, record in zip(job_ids, records, strict=True) if record]
    written = history.write(jobs)
    now = Views(service.redis, service.keys).now()
    asked = []
    for job_id, record in jobs:
        created = _milliseconds(record.get("created_ts"), now)
        until = created + round(1000 * HELD)
        asked.append((job_id, created, _payload(record), _where(record), until))
    became = service.carry_jobs(asked)
    for _ in became:
        step()
    return Counter(became) + Counter(written=written)


def _payload(record: dict[str, str]) -> str:
    """The job's payload where it is no JSON, as a JSON string; "" where it is."""
    payload = record.get("payload_json", "")
    return "" if _json(payload) is not None or payload.strip() == "null" else json.dumps(payload)


def _where(record: dict[str, str]) -> str:
    try:
        return DispatchRequest(
            src_lang=record.get("src_lang"), tgt_lang=record.get("tgt_lang")
        ).pool_selector
    except ValueError:
        return ""


def _record(answer: Any) -> dict[str, str]:
    """A hash as text of which nothing is lost, whatever bytes it has."""
    return {_text(name): _text(value) for name, value in answer.items()}


def _text(value: bytes | str) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _json(value: str | None) -> Any:
    try:
        return json.loads(value or "")
    except ValueError:
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _milliseconds(value: str | None, default: int) -> int:
    """A time of the specification's, which leaves open of what unit it is."""
    number = _number(value)
    if number is None or not 0 < number < 10**15:
        return default
    return round(number * 1000 if number < _SECONDS_UP_TO else number)
