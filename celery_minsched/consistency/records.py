"""The keys of a scan, and the records of nodes and jobs that the rules compare with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..core.keys import Keys
from ..core.statuses import HAS_SLOT
from ..core.stored import Command
from ..monitor.node_record import CHECKED_FIELDS, decode

#: A pool and a capability ("" for none), or a pool and a language pair.
Index = tuple[str, str]


class Key(NamedTuple):
    """A Redis key, and the name and ids from which :class:`~celery_minsched.core.keys.Keys` made
    it.
    """

    name: str
    ids: tuple[str, ...]
    key: str

    @property
    def as_index(self) -> Index:
        """The pool and the capability of an index of nodes or lines."""
        return self.ids[0], "".join(self.ids[1:])


@dataclass(frozen=True)
class NodeRecord:
    """The record of a node."""

    node_id: str
    max_jobs: int
    online: bool
    draining: bool
    last_heartbeat_ts: int
    advertised_indexes: frozenset[Index]
    language_pairs: frozenset[Index]
    #: The faults of unreadable fields, "" for none.
    broken: str = ""

    @classmethod
    def command(cls, keys: Keys, node_id: str) -> Command:
        """The command that reads a record for :meth:`of`."""
        return ("HMGET", keys("node_info", node_id), *CHECKED_FIELDS)

    @classmethod
    def of(cls, node_id: str, answer: list[str | None]) -> NodeRecord | None:
        """The record in the command's answer, ``None`` if the node has none."""
        record = dict(zip(CHECKED_FIELDS, answer, strict=True))
        if record["max_jobs"] is None:
            return None
        values, broken = decode(record)
        return cls(
            node_id=node_id,
            max_jobs=values["max_jobs"],
            online=record["online"] == "true",
            draining=record["draining"] == "true",
            last_heartbeat_ts=values["last_heartbeat_ts"],
            advertised_indexes=values["offers"],
            language_pairs=values["speaks"],
            broken=broken,
        )

    @property
    def pools(self) -> set[str]:
        """The pools of the node."""
        return {pool for pool, _ in self.advertised_indexes}

    def can_run(self, pools: Iterable[str], capabilities: Iterable[str]) -> bool:
        """Is the node in one of the pools, with all the capabilities?"""
        return any(
            {(pool, ""), *((pool, name) for name in capabilities)} <= self.advertised_indexes
            for pool in pools
        )


class JobRecord(NamedTuple):
    """The fields of a job's record that name its place. All are "" if there is no record."""

    status: str
    node_id: str
    line: str
    ticket: str
    suffix: str
    where: str

    @classmethod
    def command(cls, keys: Keys, job_id: str) -> Command:
        """The command that reads a record for :meth:`of`."""
        return ("HMGET", keys("job", job_id), *cls._fields)

    @classmethod
    def of(cls, answer: list[str | None]) -> JobRecord:
        """The record in the command's answer."""
        return cls(*(value or "" for value in answer))

    @property
    def state(self) -> str:
        """The job's state as the predicate of a sentence."""
        at = f" at {self.node_id or 'no node'}" if self.status in HAS_SLOT else ""
        return f"is {self.status}{at}" if self.status else "has no record"
