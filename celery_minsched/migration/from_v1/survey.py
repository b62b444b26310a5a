"""What lies in Redis by the original specification, and what does not belong there."""

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

#: The specification's keys, and of what type each is. It leaves open what a language pair is.
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
    """A key of the specification's, its name in :mod:`celery_minsched.core.keys`, and its id."""

    name: str
    id: str
    key: str
    type: str


@dataclass
class Survey:
    """What there is to carry over."""

    #: ``None`` where nothing says which it is.
    layout: int | None
    #: Has a migration noted the layout before, and been broken off?
    is_begun: bool
    #: Nodes, and names of nodes that have no record, each with the pools in which it is a member.
    nodes: dict[str, list[str]] = field(default_factory=dict)
    strays: dict[str, list[str]] = field(default_factory=dict)
    #: Language pairs, each with its pools.
    pairs: dict[str, list[str]] = field(default_factory=dict)
    sessions: int = 0
    jobs: int = 0
    #: The largest number that is part of a job's id.
    last_number: int = 0
    #: Keys below the prefix that are not the specification's; they are left as they are.
    unknown: list[str] = field(default_factory=list)
    #: Those of them that this version would take for its own.
    in_the_way: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Is there nothing of any layout?"""
        seen = (self.nodes, self.strays, self.pairs, self.sessions, self.jobs)
        return self.layout is None and not any(seen)

    @property
    def pools(self) -> set[str]:
        """All pools."""
        return {pool for pools in self.nodes.values() for pool in pools}


def survey(service: MinimalSchedulerService) -> Survey:
    """Look at all keys below the prefix. Changes nothing."""
    is_begun = bool(service.redis.exists(service.keys("layout")))
    found = Survey(layout_of(service.redis, service.keys), is_begun)
    if found.layout == LAYOUT:
        return found
    members: dict[str, set[str]] = defaultdict(set)
    nodes: set[str] = set()
    for entry in entries(service, found):
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
                    found.pairs[entry.id] = pools
                else:
                    found.unknown.append(entry.key)
                    found.in_the_way.append(entry.key)
            case "session":
                found.sessions += 1
            case "job":
                found.jobs += 1
                number = _NUMBER.search(entry.id)
                found.last_number = max(found.last_number, int(number[0]) if number else 0)
    found.nodes = {node_id: sorted(members.pop(node_id, ())) for node_id in sorted(nodes)}
    found.strays = {node_id: sorted(pools) for node_id, pools in sorted(members.items())}
    return found


def entries(service: MinimalSchedulerService, found: Survey | None = None) -> Iterator[Entry]:
    """Each key of the specification's, once; what else there is, is noted in ``found``."""
    met: set[str] = set()
    for batch in scan_keys(service.redis, service.keys, f"{service.keys.own_prefix}*"):
        keys = [key for key in dict.fromkeys(batch) if key not in met]
        met.update(keys)
        yield from _judge(service, keys, found)


def _judge(
    service: MinimalSchedulerService, keys: Iterable[str], found: Survey | None
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
        elif found and kind != "none":
            _note(found, entry)


def _note(found: Survey, entry: Entry) -> None:
    """A key that is not the specification's. Once a migration has begun, ours are there too."""
    is_ours = entry.name and entry.name not in _TYPES
    if is_ours and found.is_begun:
        return
    found.unknown.append(entry.key)
    if is_ours:
        found.in_the_way.append(entry.key)


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
    """The pools of a language pair: members of a set; of a hash the fields, or what lists there
    are in them.
    """
    named: list[object] = []
    if pair.type == "set":
        named += _members(service, pair)
    else:
        for name, value in text(list(service.redis.hgetall(pair.key).items())):
            listed = _json(value)
            named += listed if isinstance(listed, list) else [name]
    return sorted({str(pool) for pool in named if _is_name(pool)})


def _members(service: MinimalSchedulerService, entry: Entry) -> Iterator[str]:
    found: Any = service.redis.sscan_iter(entry.key, count=MANY)
    return iter(text(list(found)))


def _json(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return None
