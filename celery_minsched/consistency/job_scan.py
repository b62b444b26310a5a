"""Reads each job, and each key that names a job, once, and finds the jobs that may be wrong.

The reads are not atomic, so a job that moves during the scan can look wrong. :mod:`.jobs` reads
each suspect again in one step. If nothing is wrong and no job moves, no job is suspect, and each
job costs one short answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from redis.exceptions import NoPermissionError

from ..core.statuses import HAS_SLOT, UNASSIGNED
from ..core.stored import Command
from ..monitor.job_record import CHECKED, is_readable
from ..monitor.lines import job_of_entry
from .jobs import AGENDAS, Reference, check_records, check_references
from .lifetimes import IN_LINE, WITH_TTL, Lifetimes
from .records import Key
from .state_scan import UNREADABLE, StateScan
from .unreadable import check_unreadable
from .violation import Violation

#: The fields that are read of a job's record. They are bytes, so that the client does not encode
#: them for each job.
_FIELDS = (
    b"node_id",
    b"line",
    b"ticket",
    b"suffix",
    b"where",
    b"expires_ts",
    b"task_id",
    b"successor",
    *(name.encode() for name in CHECKED),
)

#: A kind of key that contains jobs, and the id of its node or line.
Place = tuple[str, str]


class JobScan:
    """Reads all keys, and compares the places that contain jobs with the jobs' records."""

    def __init__(self, scan: StateScan) -> None:
        self._scan = scan
        self._lifetimes = Lifetimes(scan)
        #: Ids of jobs with unreadable records, and ids of jobs to read again.
        self._unreadable: set[str] = set()
        self._suspects: set[str] = set()
        #: The members that the records expect in each place and that were not found yet.
        self._expected: defaultdict[Place, set[str]] = defaultdict(set)
        #: Members that no record expects.
        self._unexpected: list[Reference] = []
        #: Message lists that a record expects and that were not found yet, and the opposite.
        self._missing_lists: set[str] = set()
        self._extra_lists: set[str] = set()

    def read_keys(self) -> None:
        """Read the names of all keys, and the records of the jobs."""
        scan, read_keys = self._scan, 0
        total = _count_keys(scan)
        for batch in scan.key_names():
            self._read_records(self._sort(batch))
            read_keys += len(batch)
            scan.report("Reading keys", read_keys, total)

    def _sort(self, batch: Iterable[str]) -> list[str]:
        """Record the keys by kind. Returns the ids of the jobs that have a record."""
        scan, job_ids, with_ttl, typed = self._scan, [], [], []
        for key in batch:
            parsed = scan.keys.parse(key)
            if parsed and UNREADABLE in key:
                scan.unreadable_names.add(key)
                continue
            if parsed is None:
                if key.startswith(scan.bindings_prefix):
                    scan.bindings.add(key)
                continue
            name, ids, _ = parsed
            if name == "job":
                job_ids.append(ids[0])
            elif name == "job_queue":
                _toggle(key, self._missing_lists, self._extra_lists)
            elif name in WITH_TTL:
                with_ttl.append(Key(name, ids, key))
            else:
                scan.add_key(Key(name, ids, key))
            typed.append((name, key))
        self._lifetimes.read(with_ttl)
        scan.check_types(typed)
        return job_ids

    def _read_records(self, job_ids: Iterable[str]) -> None:
        for job_id, (values, ttl) in self._scan.read_loosely(
            (job_id, self._questions(job_id)) for job_id in job_ids
        ):
            record = (value or "" for value in values)
            node_id, line, queue_entry, suffix, selector, expires_ts, task_id, later, *rest = record
            status, *rest = rest
            if not is_readable(status, *rest):
                self._unreadable.add(job_id)
            has_no_ttl = ttl == -1
            if status in HAS_SLOT:
                self._expected["node_jobs", node_id].add(job_id)
                is_sound = not has_no_ttl
            elif status in UNASSIGNED:
                self._expect_unassigned(job_id, status, line, queue_entry, suffix)
                if expires_ts not in ("", "0"):
                    self._expected["expiring", ""].add(job_id)
                if task_id and not later and status in IN_LINE:
                    self._lifetimes.expect_task(task_id, job_id)
                is_sound = bool(selector) and (has_no_ttl or status == "parked")
            else:
                is_sound = not has_no_ttl
            if not is_sound:
                self._suspects.add(job_id)

    def _questions(self, job_id: str) -> list[Command]:
        key = self._scan.keys("job", job_id).encode()
        return [(b"HMGET", key, *_FIELDS), (b"PTTL", key)]

    def _expect_unassigned(
        self, job_id: str, status: str, line: str, queue_entry: str, suffix: str
    ) -> None:
        message_list = self._scan.keys("job_queue", job_id) + suffix
        _toggle(message_list, self._extra_lists, self._missing_lists)
        if status == "waiting" and job_of_entry(queue_entry) == job_id:
            self._expected["waiting", line].add(queue_entry)
        elif status == "delayed":
            self._expected["delayed", ""].add(job_id)
        elif status == "parked":
            self._expected["expiring", ""].add(job_id)
        else:
            self._suspects.add(job_id)

    def read_places(self) -> None:
        """Read the members of each place, and compare them with the records."""
        scan = self._scan
        total = sum(map(len, self._expected.values()))
        places = scan.keys_of_kind("node_jobs", "waiting", *AGENDAS)
        for number, (key, member, score) in enumerate(scan.items_of(places)):
            owner = "".join(key.ids)
            scan.sizes[key.key] += 1
            scan.firsts[key.key] = min(scan.firsts.get(key.key, score), score)
            expected = self._expected[key.name, owner]
            if member in expected:
                expected.discard(member)
            else:
                job_id = _job_of(key.name, member)
                self._unexpected.append(Reference(key.name, key.key, job_id, member, owner))
            if number % 1000 == 0:
                scan.report("Reading lines and slots", number, total)
        for (name, _), members in self._expected.items():
            self._suspects.update(_job_of(name, member) for member in members)
        self._expected.clear()

    def check(self, scan: StateScan) -> Iterator[Violation]:
        """Read the suspects again, and yield the violations."""
        self._suspects.update(map(self._job_of_list, self._missing_lists))
        messages = [
            Reference("job_queue", key, self._job_of_list(key)) for key in sorted(self._extra_lists)
        ]
        yield from check_unreadable(scan, sorted(self._unreadable))
        yield from check_records(scan, sorted(self._suspects))
        yield from check_references(scan, [*self._unexpected, *messages])
        yield from self._lifetimes.check(scan)

    def _job_of_list(self, key: str) -> str:
        parsed = self._scan.keys.parse(key)
        return parsed[1][0] if parsed else ""


def _toggle(key: str, awaited: set[str], others: set[str]) -> None:
    """Remove the key from ``awaited``, or add it to ``others``."""
    if key in awaited:
        awaited.discard(key)
    else:
        others.add(key)


def _job_of(name: str, member: str) -> str:
    return job_of_entry(member) if name == "waiting" else member


def _count_keys(scan: StateScan) -> int | None:
    """Number of keys in the database, or ``None`` if the client may not read it."""
    database = scan.redis.get_connection_kwargs().get("db", 0)
    try:
        spaces = scan.redis.info("keyspace")
    except NoPermissionError:
        return None
    return int(spaces.get(f"db{database}", {}).get("keys", 0))
