"""Reads each job and each place that names a job once, and finds the jobs that may not fit.

The reads are not atomic, so a job that moves meanwhile may look out of place.
:mod:`.jobs` reads each suspect again and finds the breach, or none. In a
sound state at rest no job is suspect. Then a job costs one short answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from redis.exceptions import NoPermissionError

from ..monitor.job_record import CHECKED, is_readable
from .breach import Breach
from .jobs import AGENDAS, HAS_SLOT, PARKED, Seen, check_places, check_records
from .lasting import IN_LINE, WITH_TTL, LastingKeys
from .look import UNREADABLE, Command, Key, Look
from .unreadable import check_unreadable

#: Of a job's record. As bytes, which the client need not encode for each job.
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

#: A key that holds jobs: its name, and its node or its line.
Place = tuple[str, str]


class JobScan:
    """Reads all keys of a look, and compares the places that hold jobs with the jobs' records."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._lasting = LastingKeys(look)
        #: Ids of the jobs whose records cannot be read; and of those to read again.
        self._unreadable: set[str] = set()
        self._suspects: set[str] = set()
        #: What the jobs' records say is in a place, without what was found there.
        self._members: defaultdict[Place, set[str]] = defaultdict(set)
        #: Members of places that no record names.
        self._strangers: list[Seen] = []
        #: Lists of messages that a record names and that were not met; and the opposite.
        self._unmet: set[str] = set()
        self._unasked: set[str] = set()

    def read_keys(self) -> None:
        """Read the names of all keys, and the records of the jobs."""
        look, done = self._look, 0
        total = _count_keys(look)
        for batch in look.scan():
            self._read_records(self._sort(batch))
            done += len(batch)
            look.tell("Reading keys", done, total)

    def _sort(self, batch: Iterable[str]) -> list[str]:
        """Note the keys. The ids of jobs that have a record are returned."""
        look, jobs, lasting, typed = self._look, [], [], []
        for key in batch:
            parsed = look.keys.parse(key)
            if parsed and UNREADABLE in key:
                look.unreadable_names.add(key)
                continue
            if parsed is None:
                if key.startswith(look.bindings_prefix):
                    look.bindings.add(key)
                continue
            name, ids, _ = parsed
            if name == "job":
                jobs.append(ids[0])
            elif name == "job_queue":
                _toggle(key, self._unmet, self._unasked)
            elif name in WITH_TTL:
                lasting.append(Key(name, ids, key))
            else:
                look.meet(Key(name, ids, key))
            typed.append((name, key))
        self._lasting.read(lasting)
        look.note_types(typed)
        return jobs

    def _read_records(self, job_ids: Iterable[str]) -> None:
        for job_id, (values, ttl) in self._look.glance(
            (job_id, self._questions(job_id)) for job_id in job_ids
        ):
            record = (value or "" for value in values)
            node_id, line, ticket, suffix, where, expires_ts, task_id, later, status, *rest = record
            if not is_readable(status, *rest):
                self._unreadable.add(job_id)
            lasts = ttl == -1
            if status in HAS_SLOT:
                self._members["node_jobs", node_id].add(job_id)
                is_sound = not lasts
            elif status in PARKED:
                self._expect_parked(job_id, status, line, ticket, suffix)
                if expires_ts not in ("", "0"):
                    self._members["expiring", ""].add(job_id)
                if task_id and not later and status in IN_LINE:
                    self._lasting.expect_task(task_id, job_id)
                is_sound = bool(where) and (lasts or status == "parked")
            else:
                is_sound = not lasts
            if not is_sound:
                self._suspects.add(job_id)

    def _questions(self, job_id: str) -> list[Command]:
        key = self._look.keys("job", job_id).encode()
        return [(b"HMGET", key, *_FIELDS), (b"PTTL", key)]

    def _expect_parked(self, job_id: str, status: str, line: str, ticket: str, suffix: str) -> None:
        _toggle(self._look.keys("job_queue", job_id) + suffix, self._unasked, self._unmet)
        if status == "waiting" and ticket.partition(" ")[2] == job_id:
            self._members["waiting", line].add(ticket)
        elif status == "delayed":
            self._members["delayed", ""].add(job_id)
        elif status == "parked":
            self._members["expiring", ""].add(job_id)
        else:
            self._suspects.add(job_id)

    def read_places(self) -> None:
        """Read what each place holds, and compare it with the records."""
        look = self._look
        total = sum(map(len, self._members.values()))
        places = [
            key
            for name in ("node_jobs", "waiting", *AGENDAS)
            for key in look.met.get(name, {}).values()
        ]
        for number, (key, member, score) in enumerate(look.items_of(places)):
            owner = "".join(key.ids)
            look.sizes[key.key] += 1
            look.firsts[key.key] = min(look.firsts.get(key.key, score), score)
            expected = self._members[key.name, owner]
            if member in expected:
                expected.discard(member)
            else:
                job_id = _job_of(key.name, member)
                self._strangers.append(Seen(key.name, key.key, job_id, member, owner))
            if number % 1000 == 0:
                look.tell("Reading lines and slots", number, total)
        for (name, _), members in self._members.items():
            self._suspects.update(_job_of(name, member) for member in members)
        self._members.clear()

    def check(self, look: Look) -> Iterator[Breach]:
        """Read again what does not fit."""
        self._suspects.update(self._job_of_list(key) for key in self._unmet)
        messages = [Seen("job_queue", key, self._job_of_list(key)) for key in sorted(self._unasked)]
        yield from check_unreadable(look, sorted(self._unreadable))
        yield from check_records(look, sorted(self._suspects))
        yield from check_places(look, [*self._strangers, *messages])
        yield from self._lasting.check(look)

    def _job_of_list(self, key: str) -> str:
        parsed = self._look.keys.parse(key)
        return parsed[1][0] if parsed else ""


def _toggle(key: str, awaited: set[str], others: set[str]) -> None:
    """Remove the key from ``awaited``, or add it to ``others``."""
    if key in awaited:
        awaited.discard(key)
    else:
        others.add(key)


def _job_of(name: str, member: str) -> str:
    return member.partition(" ")[2] if name == "waiting" else member


def _count_keys(look: Look) -> int | None:
    """Number of keys in the database; ``None`` if the client may not read it."""
    database = look.redis.get_connection_kwargs().get("db", 0)
    try:
        spaces = look.redis.info("keyspace")
    except NoPermissionError:
        return None
    return int(spaces.get(f"db{database}", {}).get("keys", 0))
