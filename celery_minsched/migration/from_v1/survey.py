"""Finds the objects of the original specification in Redis, and unknown keys with its prefix."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ...core.field_types import Lang, Name, is_job_id
from ...core.layout import LAYOUT, layout_of
from ...core.reading import MANY, scan_keys
from ...core.scheduler import MinimalSchedulerService
from ...core.texts import text

#: The types of the specification's keys. It does not define the type of a language pair.
_TYPES: Final = {
    "node_info": ("hash",),
    "node_runtime": ("hash",),
    "pool_members": ("set",),
    "lang": ("set", "hash"),
    "job": ("hash",),
    "job_id_seq": ("string",),
    "session": ("hash",),
}
_NAME: TypeAdapter[str] = TypeAdapter(Name)
_LANG: TypeAdapter[str] = TypeAdapter(Lang)
_NUMBER = re.compile(r"\d+$")


class Entry(NamedTuple):
    """A key of the specification with its name in :mod:`celery_minsched.core.keys` and its id."""

    name: str
    id: str
    key: str
    type: str


@dataclass
class Survey:
    """The objects to convert."""

    #: ``None`` if Redis has no layout.
    layout: int | None
    #: True if an earlier migration has begun and was interrupted.
    is_begun: bool
    #: The pools of each node that has a record, and of each node without a record.
    nodes: dict[str, list[str]] = field(default_factory=dict)
    strays: dict[str, list[str]] = field(default_factory=dict)
    #: The pools of each language pair.
    pairs: dict[str, list[str]] = field(default_factory=dict)
    sessions: int = 0
    jobs: int = 0
    #: The largest number at the end of a job id.
    last_number: int = 0
    #: Keys with the prefix that do not belong to the specification. They stay unchanged.
    unknown: list[str] = field(default_factory=list)
    #: Unknown keys that this version would read as its own keys.
    in_the_way: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """True if there are no data of any layout."""
        objects = (self.nodes, self.strays, self.pairs, self.sessions, self.jobs)
        return self.layout is None and not any(objects)

    @property
    def pools(self) -> set[str]:
        """All pools."""
        return {pool for pools in self.nodes.values() for pool in pools}


def survey(service: MinimalSchedulerService) -> Survey:
    """Read all keys with the prefix. Changes nothing."""
    is_begun = bool(service.redis.exists(service.keys("layout")))
    result = Survey(layout_of(service.redis, service.keys), is_begun)
    if result.layout == LAYOUT:
        return result
    members: dict[str, set[str]] = defaultdict(set)
    nodes: set[str] = set()
    for entry in entries(service, result):
        match entry.name:
            case "node_info":
                nodes.add(entry.id)
            case "node_runtime":
                members[entry.id].update()
            case "pool_members":
                for node_id in filter(_is_name, _members(service, entry)):
                    members[node_id].add(entry.id)
            case "lang":
                if pools := _pools(service, entry):
                    result.pairs[entry.id] = pools
                else:
                    result.unknown.append(entry.key)
                    result.in_the_way.append(entry.key)
            case "session":
                result.sessions += 1
            case "job":
                result.jobs += 1
                number = _NUMBER.search(entry.id)
                result.last_number = max(result.last_number, int(number[0]) if number else 0)
    result.nodes = {node_id: sorted(members.pop(node_id, ())) for node_id in sorted(nodes)}
    result.strays = {node_id: sorted(pools) for node_id, pools in sorted(members.items())}
    return result


def entries(service: MinimalSchedulerService, result: Survey | None = None) -> Iterator[Entry]:
    """Each key of the specification once. Adds all other keys to ``result``."""
    seen: set[str] = set()
    for batch in scan_keys(service.redis, service.keys, f"{service.keys.own_prefix}*"):
        keys = [key for key in dict.fromkeys(batch) if key not in seen]
        seen.update(keys)
        yield from _classify(service, keys, result)


def _classify(
    service: MinimalSchedulerService, keys: Iterable[str], result: Survey | None
) -> Iterator[Entry]:
    keys = list(keys)
    with service.redis.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key)
        types = text(pipe.execute())
    for key, kind in zip(keys, types, strict=True):
        name, ids, _ = service.keys.parse(key) or ("", (), "")
        entry = Entry(name, "".join(ids), key, kind)
        if kind in _TYPES.get(name, ()) and _is_sound(entry):
            yield entry
        elif result and kind != "none":
            _add_unknown(result, entry)


def _add_unknown(result: Survey, entry: Entry) -> None:
    """Add a key that is not the specification's. An interrupted migration leaves new keys."""
    is_new_key = entry.name and entry.name not in _TYPES
    if is_new_key and result.is_begun:
        return
    result.unknown.append(entry.key)
    if is_new_key:
        result.in_the_way.append(entry.key)


def _is_sound(entry: Entry) -> bool:
    match entry.name:
        case "node_info" | "node_runtime" | "pool_members":
            return _is_name(entry.id)
        case "lang":
            return all(_is(_LANG, side) for side in entry.id.split(":"))
        case "job":
            return is_job_id(entry.id)
    return True


def _is_name(value: object) -> bool:
    return _is(_NAME, value)


def _is(kind: TypeAdapter[str], value: object) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True


def _pools(service: MinimalSchedulerService, pair: Entry) -> list[str]:
    """The pools of a language pair.

    A pair is a set of pools, a hash with a field for each pool, or a hash with JSON lists of pools.
    """
    pools: list[object] = []
    if pair.type == "set":
        pools += _members(service, pair)
    else:
        for field_name, value in text(list(service.redis.hgetall(pair.key).items())):
            parsed = _json(value)
            pools += parsed if isinstance(parsed, list) else [field_name]
    return sorted({str(pool) for pool in pools if _is_name(pool)})


def _members(service: MinimalSchedulerService, entry: Entry) -> Iterator[str]:
    members: Any = service.redis.sscan_iter(entry.key, count=MANY)
    return iter(text(list(members)))


def _json(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return None
