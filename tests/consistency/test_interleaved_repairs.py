"""Repairs do not disturb publishers and nodes."""

from __future__ import annotations

import pytest

from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair

from ..support.interleaving import Interleaving
from ..support.server import Server


class BrokenAndRepaired(Interleaving):
    """Publishers and nodes work while another program deletes keys and an operator repairs."""

    broken = 0

    def no_slot_is_free_while_a_job_that_fits_it_waits(self) -> None:
        if self.random.random() < 0.2:
            self.delete_something()
        self.mend()

    def delete_something(self) -> None:
        """Delete a key, or a part of it."""
        spared = ("turn", "heard", "job:id_seq", "node:info:", "session:", "rescues", "lost")
        prefix = self.keys("job", "").removesuffix("job:")
        keys = [
            key
            for key in sorted(self.client.scan_iter("scheduler:*"))
            if not key.removeprefix(prefix).startswith(spared)
        ]
        if not keys:
            return
        key = self.random.choice(keys)
        kind = self.client.type(key)
        if kind == "zset" and self.random.random() < 0.7:
            self.client.zrem(key, self.random.choice(self.client.zrange(key, 0, -1)))
        elif kind == "set" and self.random.random() < 0.7:
            self.client.srem(key, self.random.choice(sorted(self.client.smembers(key))))
        else:
            self.client.delete(key)
        self.broken += 1

    def mend(self) -> None:
        checker = Checker(self.views)
        assert repair(self.service, checker, checker.check(pause=0), pause=0) == []

    def is_quiet(self) -> bool:
        self.mend()
        return super().is_quiet()

    def everything_ended_once(self) -> None:
        assert self.is_quiet(), self.client.keys("*")
        for job_id in self.sent:
            job = self.views.job(job_id)
            assert self.ran[job_id] == 1 or (job and job.status == "lost"), (job_id, job)


def meddle(server: Server, seeds: range) -> None:
    with server.client() as client:
        for seed in seeds:
            world = BrokenAndRepaired(client, seed)
            try:
                world.run()
            except AssertionError as exc:
                raise AssertionError(f"interleaving {seed}") from exc
            assert world.broken


def test_a_repair_disturbs_no_job(server: Server) -> None:
    meddle(server, range(5))


@pytest.mark.soak
def test_a_repair_disturbs_no_job_in_a_thousand_interleavings(server: Server) -> None:
    meddle(server, range(1000, 2000))
