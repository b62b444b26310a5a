"""Random steps that change waiting jobs, with a check of the invariants after each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse

from ..support.desk import Desk, beat_until, silence
from ..support.server import milliseconds

NODES = ("a", "b", "c", "d")
POOLS = ("p", "q", "r")
CAPS = ("x", "y", "z")
PAIRS = (("zh", "en"), ("fr", "en"))
KEYS = ("", "k", "l")


class Walk:
    """Random steps, and the conditions after each."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk, self.random = desk, random.Random(seed)
        self.client, self.keys = desk.service.redis, desk.service.keys
        self.sent = self.step = 0
        self.waiting: dict[str, tuple[Any, ...]] = {}  # by job: its line, key and priority
        # The step at which a job was first seen in line, and the number of the job.
        self.joined: dict[str, tuple[int, int]] = {}
        self.again: set[str] = set()  # jobs that were delayed, or joined their lines twice
        self.steps: dict[Callable[[], None], int] = {
            self.register: 4,
            self.send: 30,
            self.complete: 25,
            self.revoke: 4,
            self.expire: 2,
            self.come_due: 3,
            self.hand_back: 5,
            self.drain: 3,
            self.pause: 3,
            self.map_pair: 3,
            self.leave: 2,
            self.fall_silent: 2,
            self.beat: 10,
        }

    def some(self, choices: tuple[Any, ...], most: int) -> list[Any]:
        return sorted(self.random.sample(choices, self.random.randint(0, most)))

    def nodes(self) -> list[str]:
        return sorted(self.client.zrange(self.keys("nodes"), 0, -1))

    def any_job(self, *statuses: str) -> dict[str, Any] | None:
        jobs = []
        for key in self.client.scan_iter(f"{self.keys.prefix}job:*:*", count=1000):
            job = self.client.hgetall(key)
            if job.get("status") in statuses:
                jobs.append(job | {"id": key.removeprefix(f"{self.keys.prefix}job:")})
        return self.random.choice(sorted(jobs, key=lambda job: job["id"])) if jobs else None

    def register(self) -> None:
        pools: list[Any] = self.some(POOLS, 3) or ["p"]
        if self.random.random() < 0.4:
            pools[0] = {"id": pools[0], "langs": self.random.sample(PAIRS, 1)}
        self.desk.node(
            self.random.choice(NODES), self.random.randint(1, 3), pools, self.some(CAPS, 3)
        )

    def send(self) -> None:
        self.sent += 1
        demand: dict[str, Any] = {
            "pool": self.random.choice(POOLS),
            "capabilities": self.some(CAPS, 2),
            "fairness_key": self.random.choice(KEYS),
            "priority": self.random.choice([0, 0, 9]),
            "task_id": f"t{self.sent}",
        }
        if self.random.random() < 0.4:
            src, tgt = self.random.choice(PAIRS)
            pool = demand["pool"] if self.random.random() < 0.3 else None
            demand |= {"pool": pool, "src_lang": src, "tgt_lang": tgt}
        if self.random.random() < 0.3:
            demand |= {"preferred_node": self.random.choice(NODES), "affinity": "require"}
        elif self.random.random() < 0.3:
            demand |= {"session_id": "s", "affinity": self.random.choice(["prefer", "require"])}
        if self.random.random() < 0.1:
            demand["due_ts"] = milliseconds(self.client) + 10**7
        elif self.random.random() < 0.1:
            demand["expires_ts"] = milliseconds(self.client) + 10**7
        batch = self.random.choice([1, 1, 3])
        sent = self.desk.send_many(
            [demand | {"task_id": f"t{self.sent}.{n}"} for n in range(batch)]
        )
        self.again.update(job.job_id for job in sent if job.chosen_by == "delayed")

    def complete(self) -> None:
        if job := self.any_job("dispatched", "running"):
            self.client.delete(self.keys("node_queue", job["node_id"]))
            self.desk.complete(DispatchResponse(node_id=job["node_id"], job_id=job["id"]))

    def revoke(self) -> None:
        job = self.any_job("waiting", "delayed")
        if job and self.nodes():
            self.desk.service.revoke_tasks([job["task_id"]], self.random.choice(self.nodes()))

    def expire(self) -> None:
        for job_id in self.client.zrange(self.keys("expiring"), 0, 1):
            self.client.zadd(self.keys("expiring"), {job_id: 1}, xx=True)
        self.beat()

    def come_due(self) -> None:
        for job_id in self.client.zrange(self.keys("delayed"), 0, 2):
            self.client.hset(self.keys("job", job_id), "due_ts", 1)
            self.client.zadd(self.keys("delayed"), {job_id: 1})
        self.beat()

    def hand_back(self) -> None:
        if job := self.any_job("dispatched", "running"):
            message = f'{{"text": "{{}}", "job_id": "{job["id"]}"}}'
            self.client.lrem(self.keys("node_queue", job["node_id"]), 0, message)
            self.client.lpush(self.keys("job_queue", job["id"]) + job.get("suffix", ""), message)
            self.again.add(job["id"])
            requeued = self.random.random() < 0.5
            self.desk.service.place_jobs([job["id"]], job["node_id"], requeued)

    def drain(self) -> None:
        if self.nodes():
            node_id, draining = self.random.choice(self.nodes()), self.random.random() < 0.5
            self.desk.service.drain_node(node_id, draining)

    def pause(self) -> None:
        pools = sorted(self.client.smembers(self.keys("pools")))
        if pools:
            self.desk.service.pause_pool(self.random.choice(pools), self.random.random() < 0.4)

    def map_pair(self) -> None:
        self.desk.service.set_language_pools(*self.random.choice(PAIRS), self.some(POOLS, 3))

    def leave(self) -> None:
        if self.nodes():
            self.desk.beat(self.random.choice(self.nodes()), online=False, jobs=[])

    def fall_silent(self) -> None:
        online = [
            node
            for node in self.nodes()
            if self.client.hget(self.keys("node_info", node), "online") == "true"
        ]
        if len(online) > 1:
            silence(self.desk, self.random.choice(online), 60_000)
            self.beat_all()

    def beat(self) -> None:
        online = [
            node
            for node in self.nodes()
            if self.client.hget(self.keys("node_info", node), "online") == "true"
        ]
        if online:
            beat_until(self.desk, self.random.choice(online), lambda: False)

    def beat_all(self) -> None:
        for node in self.nodes():
            if self.client.hget(self.keys("node_info", node), "online") == "true":
                beat_until(self.desk, node, lambda: False)

    def look(self) -> None:
        """Check that there is no violation, no overtaken job, and no turn of a key without jobs."""
        assert Checker(self.desk.views).check() == []
        waiting = self.read_lines()
        for job_id in self.waiting.keys() - waiting.keys() - self.again:
            if self.status(job_id) in ("dispatched", "running"):
                assert self.overtaken(job_id, waiting) == []
        self.waiting = waiting
        assert self.read_clocks() == self.counted

    def status(self, job_id: str) -> str:
        return str(self.client.hget(self.keys("job", job_id), "status"))

    def overtaken(self, job_id: str, waiting: dict[str, tuple[Any, ...]]) -> list[str]:
        """The earlier waiting jobs of the same line, key and priority."""
        return [
            other
            for other, kind in waiting.items()
            if kind == self.waiting[job_id]
            and other not in self.again
            and self.joined[other] < self.joined[job_id]
        ]

    def read_lines(self) -> dict[str, tuple[Any, ...]]:
        """Reads the jobs in line. Counts, for each clock, the jobs of each key."""
        waiting: dict[str, tuple[Any, ...]] = {}
        self.counted: Counter[str] = Counter()
        for line in self.client.hkeys(self.keys("lines")):
            where = line.partition("/")[0].partition("=")[0].partition("|")[0]
            for ticket, place in self.client.zrange(
                self.keys("waiting", line), 0, -1, withscores=True
            ):
                job_id, band = ticket.partition(" ")[2], int(place // 2**48)
                fairness, places = self.client.hmget(self.keys("job", job_id), "fairness", "places")
                waiting[job_id] = (line, fairness, band)
                number = int(job_id.rpartition(":")[2])
                self.joined.setdefault(job_id, (self.step, number))
                clocks = [
                    where,
                    *(index.partition("\t")[0] for index in (places or "").splitlines()),
                ]
                for clock in clocks:
                    name = "lang_turns" if ":" in clock else "pool_turns"
                    self.counted[f"{self.keys(name, clock, band)} in {fairness or ''}"] += 1
        return waiting

    def read_clocks(self) -> dict[str, int]:
        return {
            f"{key} {member}": int(score - 2**48)
            for name in ("pool_turns", "lang_turns")
            for key in self.client.scan_iter(self.keys(name, "*", "*"), count=1000)
            for member, score in self.client.zrange(key, 0, -1, withscores=True)
            if member.startswith("in ")
        }

    def run(self, steps: int) -> None:
        names = list(self.steps)
        for self.step in range(steps):
            step = self.random.choices(names, list(self.steps.values()))[0]
            step()
            try:
                self.look()
            except AssertionError as failure:
                raise AssertionError(f"after {step.__name__}") from failure


@pytest.mark.parametrize("seed", range(3))
def test_random_steps_break_no_invariant(desk: Desk, seed: int) -> None:
    Walk(desk, seed).run(120)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 130))
def test_many_random_steps_break_no_invariant(desk: Desk, seed: int) -> None:
    Walk(desk, seed).run(1500)
