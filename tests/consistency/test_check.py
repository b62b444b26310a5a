"""``check`` names each violation with its keys, and a repair changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from celery_minsched.consistency.checker import Checker

from ..support.breaks import BREAKS, BY_HAND
from ..support.world import World


@pytest.mark.parametrize("name", BREAKS)
def test_a_violation_is_named_with_its_keys_and_repaired(world: World, name: str) -> None:
    broken, code, key = BREAKS[name]
    broken(world.client, world)
    violations = world.check()
    named = [violation for violation in violations if violation.code == code]
    assert named, violations
    assert any(where.startswith(key) for violation in named for where in violation.keys), named
    assert world.repair() == []


@pytest.mark.parametrize("name", BY_HAND)
def test_a_violation_without_a_repair_stays_and_has_a_remedy(world: World, name: str) -> None:
    broken, code, by_hand = BY_HAND[name]
    broken(world.client, world)
    [left] = world.repair()
    assert left.code == code
    assert left.remedy
    by_hand(world.client, world)
    assert world.repair() == []


def test_a_repair_changes_no_sound_state(world: World) -> None:
    before = world.everything()
    for node_id in ("full", "idle", "dead", "other"):
        world.service.repair_node(node_id, "asr\t\nasr\tgpu\n", "asr\tzh:en\n")
    for line in world.client.hkeys(world.keys("lines")):
        world.service.repair_line(line)
    for job_id in (world.running, world.waiting, world.delayed, world.revoked, world.ended.job_id):
        world.service.repair_job(None, job_id, "full", "asr//", "no ticket")
    assert world.everything() == before


def test_a_violation_counts_if_two_scans_find_it(world: World) -> None:
    world.client.zrem(world.keys("node_jobs", "full"), world.running)
    looks = iter([None, lambda: world.desk.beat("full", jobs=[world.running])])

    class Busy(Checker):
        def scan_once(self) -> Any:
            if act := next(looks):
                act()
            return super().scan_once()

    assert Busy(world.desk.views).check(pause=0) == []
