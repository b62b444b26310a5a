"""The cost of a check of many jobs, and jobs that move during the check."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.job_scan import JobScan
from celery_minsched.consistency.state_scan import StateScan

from ..support.desk import Desk

LATER = 10**15


def calls(client: redis.Redis, act: Callable[[], object]) -> int:
    """The number of commands that the server runs."""
    client.config_resetstat()
    act()
    stats = client.info("commandstats")
    return sum(int(stat["calls"]) for name, stat in stats.items() if name != "cmdstat_info")


@pytest.mark.parametrize(
    "demand",
    [{}, {"expires_ts": LATER}, {"due_ts": LATER}, {"priority": 9}],
    ids=["waiting", "waiting with an expiry", "delayed", "waiting at another priority"],
)
def test_a_sound_unassigned_job_costs_three_commands(
    desk: Desk, client: redis.Redis, demand: dict[str, int]
) -> None:
    desk.node("n1", 1)
    desk.send_many([{}, demand])
    few = calls(client, lambda: Checker(desk.views).check())
    desk.send_many([demand] * 100)
    assert (
        calls(client, lambda: Checker(desk.views).check()) - few == 300
    )  # two for its record, and one for the list of its message


def test_a_job_that_moves_during_the_check_is_no_violation(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 2)
    running = desk.send_many([{}, {}])
    waiting = [desk.park() for _ in range(3)]
    scan = StateScan(desk.views)
    jobs = JobScan(scan)
    jobs.read_keys()
    jobs.read_places()
    desk.complete(running[0])  # the first in line takes its slot
    desk.send(due_ts=LATER)
    assert list(jobs.check(scan)) == []
    assert desk.status(waiting[0]) == "dispatched"


def test_a_check_reports_its_progress(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.send_many([{}] * 20)
    steps: list[tuple[str, int, int | None]] = []
    Checker(desk.views, lambda *step: steps.append(step)).check()
    read_keys, total = next(counts for name, *counts in reversed(steps) if name == "Reading keys")
    assert read_keys == total == desk.service.redis.dbsize()
