"""One look at a live scheduler: read in small pieces, none for long.

Names come from SCAN and its kin. :meth:`Look.read` reads what is compared with each other in one
MULTI, which has some hundred cheap commands, so that Redis is busy with it for a millisecond.
:meth:`Look.glance` costs half of that, and promises nothing of what changes meanwhile.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from ..core.keys import HOLDS, Keys
from ..core.reading import MANY, record_of, scan_keys, text_of
from ..core.scripts import text
from ..core.stored import Command, Fields, ask, ask_each, empty_answer, is_wrong_type
from ..core.times import look_up, settings_of_fleet
from ..monitor.node_record import CHECKED_FIELDS, check_fields
from ..monitor.possible import serving_pools
from ..monitor.queries import Views

T = TypeVar("T")
Index = tuple[str, str]  # of a node's offers: pool, capability; of what it speaks: pool, pair

_COMMANDS = 250  # in one MULTI
_GLANCES = 1000  # commands in one round trip
_KEYS = 2000  # in one answer of a SCAN

#: Commands that any role has and that fail on a key of another type. Reading a job's record tells
#: its type; a program may have sessions and tasks of its own; the journal has a check of its own.
_SIZES = {
    name: {"hash": "HLEN", "list": "LLEN", "set": "SCARD", "string": "GET", "sorted set": "ZCARD"}[
        holds[1].partition(",")[0]
    ]
    for name, holds in HOLDS.items()
    if name not in ("job", "session", "task", "events", "counts", "pool_counts")
    and not name.startswith(("node_unacked", "node_acked"))  # not for all roles
}

#: What stands for a byte that is not UTF-8.
UNREADABLE = "\ufffd"

#: Receives progress: the name of the step, the number of items done, and their total, ``None`` if
#: that is unknown.
Tell = Callable[[str, int, int | None], object]


#: How to walk those keys that are not sets.
_SCANS = {
    **dict.fromkeys(
        ("nodes", "rescues", "node_jobs", "pool_free", "capable_free", "delayed", "expiring"),
        "ZSCAN",
    ),
    **dict.fromkeys(("waiting", "pool_waiting", "capable_waiting", "node_waiting"), "ZSCAN"),
    **dict.fromkeys(("lines", "waiting_counts"), "HSCAN"),
}


class Key(NamedTuple):
    """A key, and of what :class:`~celery_minsched.core.keys.Keys` made it."""

    name: str
    ids: tuple[str, ...]
    key: str

    @property
    def in_offers(self) -> Index:
        """An index as a node's offers have it: the pool, and the capability, "" for none."""
        return self.ids[0], "".join(self.ids[1:])


@dataclass(frozen=True)
class Node:
    """What a node's record says."""

    node_id: str
    max_jobs: int
    online: bool
    draining: bool
    last_heartbeat_ts: int
    offers: frozenset[Index]
    speaks: frozenset[Index]
    #: What cannot be read of it; "" for nothing.
    broken: str = ""

    @classmethod
    def command(cls, keys: Keys, node_id: str) -> Command:
        """Reads what :meth:`of` is made of."""
        return ("HMGET", keys("node_info", node_id), *CHECKED_FIELDS)

    @classmethod
    def of(cls, node_id: str, values: list[str | None]) -> Node | None:
        """The node, ``None`` where it has no record."""
        record = dict(zip(CHECKED_FIELDS, values, strict=True))
        if record["max_jobs"] is None:
            return None
        fields = Fields(record)
        check_fields(fields)
        return cls(
            node_id=node_id,
            max_jobs=fields.integer("max_jobs"),
            online=record["online"] == "true",
            draining=record["draining"] == "true",
            last_heartbeat_ts=fields.integer("last_heartbeat_ts"),
            offers=fields.indexes("offers"),
            speaks=fields.indexes("speaks"),
            broken=fields.broken,
        )

    @property
    def pools(self) -> set[str]:
        """The pools that it is in."""
        return {pool for pool, _ in self.offers}

    def has(self, pools: Iterable[str], capabilities: Iterable[str]) -> bool:
        """Is it in one of the pools, with all the capabilities?"""
        return any(
            {(pool, ""), *((pool, capability) for capability in capabilities)} <= self.offers
            for pool in pools
        )


class Look:
    """Reads, and what of it the rules share."""

    def __init__(self, views: Views, tell: Tell = lambda step, done, total: None) -> None:
        self.redis, self.keys, self.tell = views.redis, views.keys, tell
        times = settings_of_fleet(views.settings, look_up(self.redis, self.keys))
        self.node_ttl = times.node_ttl
        #: Seconds for which a key stays after its last use, by the key's name.
        self.ttl_of = {
            "session": times.session_ttl,
            "pool_turns": times.history_ttl,
            "node_searches": times.node_ttl,
        }
        seconds, microseconds = self.redis.time()
        #: Milliseconds of the server's clock.
        self.now: int = seconds * 1000 + microseconds // 1000
        self.pools_of = cache(self._pools_of)
        self.paused = views.paused()
        #: The lines that are yet to be linked anew, see lua/include/reindex.lua.
        [relinking] = ask(self.redis, [("HGETALL", self.keys("relinking"))])
        self.relinking: set[str] = set(record_of(relinking))
        #: Keys of another type than the scheduler's, and those with names that are not UTF-8.
        self.wrong_types: set[str] = set()
        self.unreadable_names: set[str] = set()
        #: Keys with members that are not UTF-8.
        self.unreadable_members: set[str] = set()
        #: Nodes by id, ``None`` for one without a record; and those that have a free slot.
        self.nodes: dict[str, Node | None] = {}
        self.free: set[str] = set()
        #: Nodes that were found dead; and those of them of which nothing is left to rescue.
        self.dead: set[str] = set()
        self.gone: set[str] = set()
        #: Keys that were met, by their names and themselves; and kombu's keys of bindings.
        self.met: dict[str, dict[str, Key]] = {}
        self.bindings_prefix = f"{self.keys.queue_prefix}_kombu.binding"
        self.bindings: set[str] = set()
        #: Members of keys that were read, each with its score or value.
        self._contents: dict[str, dict[str, Any]] = {}
        #: Numbers of members of the keys that hold jobs.
        self.sizes: Counter[str] = Counter()
        #: The lowest scores in them.
        self.firsts: dict[str, float] = {}

    @cached_property
    def free_nodes(self) -> defaultdict[Index, list[Node]]:
        """Nodes with a free slot that take jobs, by what they offer."""
        found: defaultdict[Index, list[Node]] = defaultdict(list)
        for node in self.nodes.values():
            if node and node.node_id in self.free and self.takes_jobs(node):
                for index in node.offers:
                    found[index].append(node)
        return found

    def meet(self, key: Key) -> None:
        """Note a key that was met."""
        self.met.setdefault(key.name, {})[key.key] = key

    def note_types(self, keys: Iterable[tuple[str, str]]) -> None:
        """Note those of these keys, each with its name, that are of the wrong type."""
        sizes: Iterator[tuple[str, list[Command]]] = (
            (key, [(_SIZES[name], key)]) for name, key in keys if name in _SIZES
        )
        for _ in self.glance(sizes):
            pass

    def is_heard(self, node: Node) -> bool:
        """Has the node not been silent for so long that it is taken for dead?"""
        return self.now - node.last_heartbeat_ts <= self.node_ttl * 1000

    def takes_jobs(self, node: Node) -> bool:
        """Is the node there to work, be it full just now?"""
        return node.online and not node.draining and self.is_heard(node)

    def scan(self) -> Iterator[list[str]]:
        """All keys below the broker's prefix, in batches; some of them twice."""
        return scan_keys(self.redis, self.keys, "*", _KEYS)

    def members(self, *names: str) -> Iterator[tuple[Key, str]]:
        """Each key of these names that was met with each of its members."""
        self.load(*names)
        for name in names:
            for key in self.met.get(name, {}).values():
                for member in self._contents[key.key]:
                    yield key, member

    def load(self, *names: str) -> None:
        """Read the keys of these names that were met, once, and remember their members."""
        keys = [key for name in names for key in self.met.get(name, {}).values()]
        missing = [key for key in keys if key.key not in self._contents]
        self._contents.update({key.key: {} for key in missing})
        for key, member, value in self.items_of(missing):
            self._contents[key.key][member] = value

    def _pools_of(self, where: str) -> set[str]:
        """The pools that serve, by what was read."""
        self.load("lang")
        return serving_pools(
            where,
            lambda pair: self._contents.get(self.keys("lang", pair), {}),
            lambda pool: self.is_met(self.keys("pool_langs", pool)),
        )

    def items_of(self, keys: Iterable[Key]) -> Iterator[tuple[Key, str, Any]]:
        """Each of these keys with each of its members, and its score or value; some of them twice.
        They are not kept.
        """
        cursors = dict.fromkeys(keys, 0)
        while cursors:
            some = list(islice(cursors.items(), _COMMANDS // 10))
            answers = self._ask(
                [
                    (_SCANS.get(key.name, "SSCAN"), key.key, cursor, "COUNT", MANY)
                    for key, cursor in some
                ]
            )
            for (key, _), (cursor, found) in zip(some, answers, strict=True):
                cursors[key] = int(cursor)
                if not cursors[key]:
                    del cursors[key]
                items = found.items() if isinstance(found, Mapping) else found
                for item in items:
                    member, value = item if isinstance(item, tuple) else (item, None)
                    name = text(member)
                    if UNREADABLE in name:
                        self.unreadable_members.add(key.key)
                    else:
                        yield key, name, text(value)

    def recall(self, command: Command) -> Any:
        """What the command would answer by what was read so far. It may be out of date."""
        name, key, *args = command
        contents = self._contents.get(str(key), {})
        match name:
            case "SISMEMBER":
                return args[0] in contents
            case "ZSCORE" | "HGET":
                return contents.get(str(args[0]))
            case "ZCARD":
                return self.sizes[str(key)]
            case "ZRANGE":  # the first, of a line
                first = self.firsts.get(str(key))
                return [] if first is None else [("", first)]
            case "EXISTS":
                return sum(self.is_met(str(each)) for each in (key, *args))
        raise ValueError(f"{name!r} is not recalled")

    def is_met(self, key: str) -> bool:
        """Was the key met?"""
        parsed = self.keys.parse(key)
        return parsed is not None and key in self.met.get(parsed[0], {})

    def read(self, units: Iterable[tuple[T, list[Command]]]) -> Iterator[tuple[T, list[Any]]]:
        """Each thing with the answers to its commands, which are read in one MULTI."""
        for batch in _batches(units, _COMMANDS):
            yield from self._read(batch, is_atomic=True)

    def glance(self, units: Iterable[tuple[T, list[Command]]]) -> Iterator[tuple[T, list[Any]]]:
        """The same in a larger pipeline, in which other clients' commands come between."""
        for batch in _batches(units, _GLANCES):
            yield from self._read(batch, is_atomic=False)

    def _read(
        self, batch: list[tuple[T, list[Command]]], *, is_atomic: bool
    ) -> Iterator[tuple[T, list[Any]]]:
        every = [command for _, commands in batch for command in commands]
        answers = iter(text(self._ask(every, is_atomic=is_atomic)))
        for thing, commands in batch:
            yield thing, list(islice(answers, len(commands)))

    def _ask(self, commands: list[Command], *, is_atomic: bool = False) -> list[Any]:
        """The answers. Notes keys of the wrong type, which read as missing keys."""
        answers = ask_each(self.redis, commands, is_atomic=is_atomic)
        for number, answer in enumerate(answers):
            if is_wrong_type(answer):
                self.wrong_types.add(text_of(commands[number][1]))
                answers[number] = empty_answer(commands[number])
        return answers


def _batches(
    units: Iterable[tuple[T, list[Command]]], most: int
) -> Iterator[list[tuple[T, list[Command]]]]:
    """Units with about so many commands together."""
    batch: list[tuple[T, list[Command]]] = []
    size = 0
    for unit in units:
        batch.append(unit)
        size += len(unit[1])
        if size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
