"""Converts the objects of a survey one by one."""

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

#: Seconds after its creation for which a job without an end holds its slot. The specification does
#: not record lost jobs, so some of these jobs never end.
HELD: Final = 3600.0

_MAX_SECONDS: Final = 10**11  # A smaller time is in seconds, a larger time is in ms.


def carry_over(
    service: MinimalSchedulerService,
    survey: Survey,
    history: History,
    step: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Convert all objects. Calls ``step`` after each job.

    Returns the numbers of jobs that are ``held`` at their nodes, ``history``, and ``written``.
    """
    client, keys = service.redis, service.keys
    client.set(keys("layout"), SPECIFIED, nx=True)  # No node starts meanwhile.
    for pair, pools in survey.pairs.items():
        service.carry_language(pair, pools)
    now = Views(service.redis, service.keys).now()
    for node_id, pools in survey.nodes.items():
        client.hset(keys("node_info", node_id), mapping=_node(service, node_id, pools, now))
    counts: Counter[str] = Counter()
    jobs = (entry for entry in entries(service) if entry.name in ("job", "session"))
    for page in pages(jobs):
        _carry_sessions(service, [entry.key for entry in page if entry.name == "session"])
        counts.update(_carry_jobs(service, [e.id for e in page if e.name == "job"], history, step))
    for node_id in survey.nodes:
        service.repair_node(node_id)
    for node_id, pools in survey.strays.items():
        service.repair_node(node_id, "".join(f"{pool}\t\n" for pool in pools))
    if int(client.get(keys("job_id_seq")) or 0) < survey.last_number:
        client.set(keys("job_id_seq"), survey.last_number)
    client.set(keys("layout"), LAYOUT)
    return counts


def heartbeats(service: MinimalSchedulerService, survey: Survey) -> dict[str, int]:
    """The time of each node's last heartbeat in ms, or 0 if it sent none."""
    with service.redis.pipeline(transaction=False) as pipe:
        for node_id in survey.nodes:
            pipe.hget(service.keys("node_info", node_id), "last_heartbeat_ts")
        answers = pipe.execute()
    return {
        node_id: _milliseconds(_text(heartbeat or ""), 0)
        for node_id, heartbeat in zip(survey.nodes, answers, strict=True)
    }


def _node(
    service: MinimalSchedulerService, node_id: str, pools: list[str], now: int
) -> dict[Any, Any]:
    """The new record of a node. The node has left, and registers when it starts."""
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
    """The capabilities of a node, or none if they are unreadable. A registration sets them."""
    try:
        return RegisterNodeRequest(
            node_id="any", max_jobs=1, pools_json='["any"]', cap_json=record.get("cap_json", "{}")
        ).capabilities
    except ValueError:
        return []


def _carry_sessions(service: MinimalSchedulerService, keys: list[str]) -> None:
    """Let unused sessions expire. Their fields are the same in both layouts."""
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
    rows = []
    for job_id, record in jobs:
        created = _milliseconds(record.get("created_ts"), now)
        until = created + round(1000 * HELD)
        rows.append((job_id, created, _payload(record), _where(record), until))
    outcomes = service.carry_jobs(rows)
    for _ in outcomes:
        step()
    return Counter(outcomes) + Counter(written=written)


def _payload(record: dict[str, str]) -> str:
    """A payload that is not JSON, as a JSON string, or "" for a payload that is JSON."""
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
    """The hash as text. Bytes that are not UTF-8 become surrogates, so none is lost."""
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
    """A time in ms. The specification does not define whether its times are in seconds or in ms."""
    number = _number(value)
    if number is None or not 0 < number < 10**15:
        return default
    return round(number * 1000 if number < _MAX_SECONDS else number)
