"""A producer may write random bytes into its keys. Commands, pages and scrapes still answer, and
check names the violations.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from celery_minsched.core.key_contents import HOLDS
from celery_minsched.core.keys import Keys

from ..support.acl import rules_of
from ..support.scene import CONTROLS, Scene

KEYS = Keys()
TYPES = {"sorted set": "zset"} | {
    kind: kind for kind in ("hash", "set", "string", "list", "stream")
}

VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            *(
                b"x",
                b"0",
                b"1",
                b"-1",
                b"00",
                b"1.5",
                b"1e400",
                b"nan",
                b"inf",
                b"0x10",
                b"9" * 400,
            ),
            *(b"true", b"running", b"waiting", b"delayed", b"parked", b"lost", b"resting", b"n1"),
            *(
                b"\xff\xfe",
                b"\x1b[2J",
                b"\x1b]0;owned\x07",
                "\u202e\x9b31m".encode(),
                b"\r\n\t\x00",
            ),
            *(
                b"{",
                b"[]",
                b"null",
                b"[" * 3000,
                b'{"cpu": 1e999}',
                b'{"cpu": "x"}',
                b'{"cpu": NaN}',
            ),
            *(b'{"task": "\\ud800"}', b'{"task": "\\u001b[2J"}', b'{"id": "x", "headers": [1]}'),
            *(b"asr\n", b"asr\tgpu\tx\n", b"asr\t\n" * 300, b"a/b", b"a/b/c/d", b"asr=zh:en|/x,,/"),
            *(b"/" * 300, "\u0661\u0662".encode(), b"x" * 5000, b"u1:1", b"1 1e99 n1 1e99"),
        ]
    ),
)
SCORES = st.sampled_from(["0", "1", "-1", "inf", "-inf", "1e300", "-0.5", "9007199254740993"])


class Write(NamedTuple):
    """One write of a producer."""

    name: str  # of the key's family
    how: str
    which: int  # index of the key in its family. The last index is a new key
    field: bytes
    known: int  # index of the field in the record. 0 is a new field
    value: bytes
    score: str

    def __str__(self) -> str:
        return f"{self.how} {self.name} {self.which} {self.field!r} {self.value[:60]!r}"


def may_write(name: str) -> bool:
    """True if a producer may write keys of this family."""
    key = KEYS(name, *["a:b" if id == "src:tgt" else "x" for id in HOLDS[name][0]])
    rules = rules_of("producer")
    patterns = [rule.rpartition("~")[2] for rule in rules if rule.startswith(("~", "%W~", "%RW~"))]
    return any(fnmatchcase(key, pattern) for pattern in patterns)


#: The layout is not among them. If it is no number, every command fails and names the key
#: (test_unreadable.py).
WRITABLE = [name for name in HOLDS if may_write(name) and name != "layout"]
WRITES = st.builds(
    Write,
    name=st.sampled_from(WRITABLE),
    how=st.sampled_from(["put", "put", "put", "put", "type", "drop"]),
    which=st.integers(0, 7),
    field=VALUES,
    known=st.integers(0, 50),
    value=VALUES,
    score=SCORES,
)


class Producer:
    """Writes random values into the keys that a producer may write."""

    def __init__(self, scene: Scene) -> None:
        self._redis = scene.raw
        self._keys: dict[str, list[bytes]] = defaultdict(list)
        self._fields: dict[str, list[bytes]] = defaultdict(list)
        for key in sorted(scene.raw.scan_iter()):
            name = (KEYS.parse(key.decode()) or ("",))[0]
            self._keys[name].append(key)
            if HOLDS.get(name, ("", ""))[1].startswith("hash"):
                self._fields[name] += scene.raw.hkeys(key)

    def write(self, write: Write) -> bytes:
        """Make one write. Returns its key."""
        name, value = write.name, write.value
        kind = TYPES[HOLDS[name][1].partition(",")[0]]
        ids = [b"a:b" if id == "src:tgt" else (write.field or b"x") for id in HOLDS[name][0]]
        template = KEYS(name, *["\0"] * len(ids)).encode().split(b"\0")
        new = b"".join(part + id for part, id in zip(template, [*ids, b""], strict=True))
        key = [*self._keys[name], new][write.which % (len(self._keys[name]) + 1)]
        known = sorted(set(self._fields[name]))
        field = [write.field, *known][write.known % (len(known) + 1)]
        if write.how == "type":
            self._redis.delete(key)
            other = ("SADD", key, value) if kind != "set" else ("HSET", key, field, value)
            self._redis.execute_command(*other)
            return key
        if write.how == "drop":
            commands: list[tuple[Any, ...]] = [
                ("HDEL", key, field) if kind == "hash" else ("DEL", key)
            ]
        else:
            commands = {
                "hash": [("HSET", key, field, value)],
                "set": [("SADD", key, value)],
                "zset": [("ZADD", key, write.score, value)],
                "string": [("SET", key, value)],
                "list": [("LPUSH", key, value)],
                "stream": [("XADD", key, "*", field, value)],
            }[kind]
        for command in commands:
            with suppress(ResponseError):  # an earlier write gave the key another type
                self._redis.execute_command(*command)
        return key


def attack(scene: Scene, writes: list[Write]) -> None:
    """Write, and run every command, page and scrape."""
    scene.reset()
    producer = Producer(scene)
    for write in writes:
        note(f"{write} -> {producer.write(write)!r}")
    for face, text in scene.answers():
        assert not CONTROLS.search(text), (face, CONTROLS.search(text))
    violations = scene.violations()
    broken = [node.node_id for node in scene.app.minsched.views.nodes() if node.broken]
    broken += [job.job_id for job in scene.app.minsched.views.jobs() if job.broken]
    assert not broken or violations, broken


def go_on(scene: Scene, write: Write) -> None:
    """Write one field or member. Other nodes and jobs continue."""
    scene.reset()
    note(f"{write} -> {Producer(scene).write(write)!r}")
    desk = scene.desk
    desk.beat("n2", rescues=True)
    desk.send(pool="mt")
    desk.send(pool="asr")
    desk.node("n3", 2, ["asr", "mt"])
    desk.beat("n3")


def quick(examples: int) -> settings:
    """Few examples, the same in each run."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


LONG = settings(
    max_examples=5000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FACES = given(writes=st.lists(WRITES, min_size=1, max_size=6))
SCRIPTS = given(write=WRITES.filter(lambda write: write.how == "put"))


@FACES
@quick(30)
def test_all_commands_and_pages_answer_after_random_writes(
    scene: Scene, writes: list[Write]
) -> None:
    attack(scene, writes)


@SCRIPTS
@quick(200)
def test_an_unreadable_value_stops_no_other_node_and_no_other_job(
    scene: Scene, write: Write
) -> None:
    go_on(scene, write)


@pytest.mark.soak
@FACES
@LONG
def test_all_commands_and_pages_answer_after_many_random_writes(
    scene: Scene, writes: list[Write]
) -> None:
    attack(scene, writes)


@pytest.mark.soak
@SCRIPTS
@LONG
def test_no_unreadable_value_of_many_stops_others(scene: Scene, write: Write) -> None:
    go_on(scene, write)
