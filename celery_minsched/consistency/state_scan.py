"""One scan of a live scheduler, in many short reads.

SCAN and its variants find the names. :meth:`StateScan.read` reads the data that the rules compare
in one MULTI. A MULTI has a few hundred cheap commands and occupies Redis for about a millisecond.
:meth:`StateScan.read_loosely` costs half of that and is not atomic.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from itertools import islice
from typing import Any, TypeVar

from ..core.key_contents import HOLDS
from ..core.reading import MANY, scan_keys
from ..core.stored import Command, ask, ask_each, empty_answer, is_wrong_type
from ..core.texts import record_of, text, text_of
from ..core.times import look_up, settings_of_fleet
from ..monitor.possible import serving_pools
from ..monitor.queries import Views
from .records import Index, Key, NodeRecord

T = TypeVar("T")

_COMMANDS = 250  # in one MULTI
_LOOSE_COMMANDS = 1000  # in one round trip
_KEYS = 2000  # in one answer of SCAN

#: For each kind of key a command that fails if the key has another type. All roles may call it.
#: Left out: a job's record is read anyway, another program may have sessions and tasks of its
#: own, and the journal has its own check.
_TYPE_PROBES = {
    name: {"hash": "HLEN", "list": "LLEN", "set": "SCARD", "string": "GET", "sorted set": "ZCARD"}[
        holds[1].partition(",")[0]
    ]
    for name, holds in HOLDS.items()
    if name not in ("job", "session", "task", "events", "counts", "pool_counts")
    and not name.startswith(("node_unacked", "node_acked"))  # not for all roles
}

#: The replacement character. A name with it is not UTF-8 in Redis.
UNREADABLE = "\ufffd"

#: Receives progress: the name of the step, the number of items done, and their total, ``None`` if
#: the total is unknown.
Report = Callable[[str, int, int | None], object]

#: The command that walks the members of a key, for each kind of key that is not a set.
_SCANS = {
    **dict.fromkeys(
        ("nodes", "rescues", "node_jobs", "pool_free", "capable_free", "delayed", "expiring"),
        "ZSCAN",
    ),
    **dict.fromkeys(("waiting", "pool_waiting", "capable_waiting", "node_waiting"), "ZSCAN"),
    **dict.fromkeys(("lines", "waiting_counts"), "HSCAN"),
}


def no_report(_step: str, _done: int, _total: int | None) -> None:
    """Ignore the progress."""


class StateScan:
    """Reads Redis, and caches the data that several rules use."""

    def __init__(self, views: Views, report: Report = no_report) -> None:
        self.redis, self.keys, self.report = views.redis, views.keys, report
        times = settings_of_fleet(views.settings, look_up(self.redis, self.keys))
        self.node_ttl = times.node_ttl
        #: Seconds that a key stays after its last use, by the key's name.
        self.ttl_of = {
            "session": times.session_ttl,
            "pool_turns": times.history_ttl,
            "lang_turns": times.history_ttl,
            "node_searches": times.node_ttl,
        }
        #: The server's clock, ms.
        self.now: int = views.now()
        self.pools_of = cache(self._pools_of)
        self.paused = views.paused()
        #: Lines that wait to be linked anew, see lua/include/reindex.lua.
        [relinking] = ask(self.redis, [("HGETALL", self.keys("relinking"))])
        self.relinking: set[str] = set(record_of(relinking))
        #: Keys of another type than the scheduler's, with names that are not UTF-8, and with
        #: members that are not UTF-8.
        self.wrong_types: set[str] = set()
        self.unreadable_names: set[str] = set()
        self.unreadable_members: set[str] = set()
        #: Nodes by id, ``None`` for a node without a record.
        self.nodes: dict[str, NodeRecord | None] = {}
        #: Nodes with a free slot, nodes that a script found dead, and dead nodes that have been
        #: rescued.
        self.free: set[str] = set()
        self.dead: set[str] = set()
        self.gone: set[str] = set()
        #: The scheduler's keys by kind and name, and kombu's keys of bindings.
        self.keys_by_kind: dict[str, dict[str, Key]] = {}
        self.bindings_prefix = f"{self.keys.queue_prefix}_kombu.binding"
        self.bindings: set[str] = set()
        #: The members of the keys that were read, each with its score or value.
        self._contents: dict[str, dict[str, Any]] = {}
        #: Of the keys that contain jobs: the number of members, and the lowest score.
        self.sizes: Counter[str] = Counter()
        self.firsts: dict[str, float] = {}

    @cached_property
    def free_nodes(self) -> defaultdict[Index, list[NodeRecord]]:
        """The nodes that take jobs and have a free slot, by each index that they advertise."""
        nodes: defaultdict[Index, list[NodeRecord]] = defaultdict(list)
        for node in self.nodes.values():
            if node and node.node_id in self.free and self.takes_jobs(node):
                for index in node.advertised_indexes:
                    nodes[index].append(node)
        return nodes

    def add_key(self, key: Key) -> None:
        """Record that the key exists."""
        self.keys_by_kind.setdefault(key.name, {})[key.key] = key

    def has_key(self, key: str) -> bool:
        """Did the scan find the key?"""
        parsed = self.keys.parse(key)
        return parsed is not None and key in self.keys_by_kind.get(parsed[0], {})

    def keys_of_kind(self, *names: str) -> list[Key]:
        """The keys of these kinds that the scan found."""
        return [key for name in names for key in self.keys_by_kind.get(name, {}).values()]

    def check_types(self, keys: Iterable[tuple[str, str]]) -> None:
        """Record the keys of the wrong type. Each item is a kind and a key."""
        probes: Iterator[tuple[str, list[Command]]] = (
            (key, [(_TYPE_PROBES[name], key)]) for name, key in keys if name in _TYPE_PROBES
        )
        for _ in self.read_loosely(probes):
            pass

    def has_heartbeats(self, node: NodeRecord) -> bool:
        """Is the node's last heartbeat younger than the TTL?"""
        return self.now - node.last_heartbeat_ts <= self.node_ttl * 1000

    def takes_jobs(self, node: NodeRecord) -> bool:
        """Does the node take jobs when it has a free slot?"""
        return node.online and not node.draining and self.has_heartbeats(node)

    def key_names(self) -> Iterator[list[str]]:
        """All keys below the broker's prefix, in batches. A key can come twice."""
        return scan_keys(self.redis, self.keys, "*", _KEYS)

    def members(self, *names: str) -> Iterator[tuple[Key, str]]:
        """Each key of these kinds with each of its members."""
        self.load(*names)
        for key in self.keys_of_kind(*names):
            for member in self._contents[key.key]:
                yield key, member

    def load(self, *names: str) -> None:
        """Read the members of the keys of these kinds, once, for :meth:`recall`."""
        missing = [key for key in self.keys_of_kind(*names) if key.key not in self._contents]
        self._contents.update({key.key: {} for key in missing})
        for key, member, value in self.items_of(missing):
            self._contents[key.key][member] = value

    def _pools_of(self, pool_selector: str) -> set[str]:
        """The pools that serve the selector, according to the cached data."""
        self.load("lang")
        return serving_pools(
            pool_selector,
            lambda pair: self._contents.get(self.keys("lang", pair), {}),
            lambda pool: self.has_key(self.keys("pool_langs", pool)),
        )

    def items_of(self, keys: Iterable[Key]) -> Iterator[tuple[Key, str, Any]]:
        """Each key with each of its members and its score or value. An item can come twice."""
        cursors = dict.fromkeys(keys, 0)
        while cursors:
            some = list(islice(cursors, _COMMANDS // 10))
            answers = self._ask(
                [
                    (_SCANS.get(key.name, "SSCAN"), key.key, cursors[key], "COUNT", MANY)
                    for key in some
                ]
            )
            for key, (cursor, page) in zip(some, answers, strict=True):
                cursors[key] = int(cursor)
                if not cursors[key]:
                    del cursors[key]
                for item in page.items() if isinstance(page, Mapping) else page:
                    member, value = item if isinstance(item, tuple) else (item, None)
                    name = text(member)
                    if UNREADABLE in name:
                        self.unreadable_members.add(key.key)
                    else:
                        yield key, name, text(value)

    def recall(self, command: Command) -> Any:
        """The command's answer according to the cached data. It can be out of date."""
        name, key, *args = command
        contents = self._contents.get(str(key), {})
        match name:
            case "SISMEMBER":
                return args[0] in contents
            case "ZSCORE" | "HGET":
                return contents.get(str(args[0]))
            case "ZCARD":
                return self.sizes[str(key)]
            case "ZRANGE":  # the first job of a line
                first = self.firsts.get(str(key))
                return [] if first is None else [("", first)]
            case "EXISTS":
                return sum(self.has_key(str(counted_key)) for counted_key in (key, *args))
        raise ValueError(f"{name!r} is not recalled")

    def read(self, units: Iterable[tuple[T, list[Command]]]) -> Iterator[tuple[T, list[Any]]]:
        """Each item with the answers to its commands, which are read in one MULTI."""
        for batch in _batches(units, _COMMANDS):
            yield from self._read(batch, is_atomic=True)

    def read_loosely(
        self, units: Iterable[tuple[T, list[Command]]]
    ) -> Iterator[tuple[T, list[Any]]]:
        """The same without MULTI and in larger batches. Other clients may write in between."""
        for batch in _batches(units, _LOOSE_COMMANDS):
            yield from self._read(batch, is_atomic=False)

    def _read(
        self, batch: list[tuple[T, list[Command]]], *, is_atomic: bool
    ) -> Iterator[tuple[T, list[Any]]]:
        every = [command for _, commands in batch for command in commands]
        answers = iter(text(self._ask(every, is_atomic=is_atomic)))
        for item, commands in batch:
            yield item, list(islice(answers, len(commands)))

    def _ask(self, commands: list[Command], *, is_atomic: bool = False) -> list[Any]:
        """The answers. A key of the wrong type is recorded and reads as a missing key."""
        answers = ask_each(self.redis, commands, is_atomic=is_atomic)
        for number, answer in enumerate(answers):
            if is_wrong_type(answer):
                self.wrong_types.add(text_of(commands[number][1]))
                answers[number] = empty_answer(commands[number])
        return answers


def is_present(command: Command, answer: Any) -> bool:
    """Does the member or key exist, according to the answer to a ZSCORE, SISMEMBER or EXISTS?"""
    return answer is not None if command[0] == "ZSCORE" else bool(answer)


def _batches(
    units: Iterable[tuple[T, list[Command]]], most: int
) -> Iterator[list[tuple[T, list[Command]]]]:
    """Batches of about ``most`` commands."""
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
