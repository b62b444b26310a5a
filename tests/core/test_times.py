"""Redis holds the fleet's times: a process with other settings uses them and logs a warning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NoAvailableNode, Settings
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.layout import check_layout
from celery_minsched.monitor.queries import Views

from ..support.desk import Desk, silence
from ..support.fleet import make_app

TIMES = "scheduler:times"
SHORT = Settings(node_ttl=4, lease=10, session_ttl=60, history_ttl=100, max_rescues=2)
LONG = Settings(node_ttl=20, heartbeat_interval=5, lease=40)


@pytest.fixture
def fleet(desk: Desk) -> Iterator[Desk]:
    """A fleet with the defaults: one node, ``n1``."""
    desk.node("n1")
    return desk


def other(fleet: Desk, settings: Settings) -> Desk:
    """The settings of another process."""
    return Desk(MinimalSchedulerService(fleet.service.redis, settings))


def test_a_publisher_with_a_shorter_node_ttl_takes_no_node_offline(
    fleet: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    silence(fleet, "n1", 6000)  # dead by SHORT, alive by the fleet's times
    publisher = other(fleet, SHORT)
    job = publisher.dispatch(session_id="s")
    assert job.node_id == "n1"
    assert fleet.info("n1").online
    client, keys = fleet.service.redis, fleet.service.keys
    assert client.pttl(keys("session", "s")) > 3_500_000
    assert client.pttl(keys("job", job.job_id)) > 86_000_000
    lease = client.zscore(keys("node_jobs", "n1"), job.job_id) - fleet.views.now()
    assert 29_000 < lease <= 30_000
    [warning] = caplog.messages
    assert "minsched_node_ttl is 4 here and 8 in the fleet" in warning
    assert "minsched_lease is 10 here and 30 in the fleet" in warning
    assert "minsched_max_rescues is 2 here and 3 in the fleet" in warning
    assert "stop all nodes and start them with the new values" in warning
    publisher.dispatch()
    assert len(caplog.messages) == 1  # once


def test_a_publisher_with_a_longer_node_ttl_keeps_no_dead_node(fleet: Desk) -> None:
    silence(fleet, "n1", 10_000)
    with pytest.raises(NoAvailableNode):
        other(fleet, LONG).dispatch()
    fleet.node("n1")


def test_a_second_node_uses_the_times_of_the_first(
    fleet: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    joins = other(fleet, LONG)
    joins.node("n2")
    assert joins.service.settings.node_ttl == 8
    assert joins.service.settings.heartbeat_interval == 2  # 5 s would be too seldom
    assert "minsched_heartbeat_interval is 5 here and 2 in the fleet" in caplog.text
    assert fleet.service.redis.get(TIMES).startswith("8000 30000")
    silence(fleet, "n2", 10_000)
    assert fleet.dispatch().node_id == fleet.dispatch().node_id == "n1"


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_node_that_starts_after_all_have_stopped_changes_the_times(
    fleet: Desk, caplog: pytest.LogCaptureFixture, is_clean: bool
) -> None:
    if is_clean:
        fleet.beat("n1", online=False, jobs=[])
    else:
        silence(fleet, "n1", 25_000)
    later = other(fleet, LONG)
    later.node("n1", instance="next")
    assert later.service.settings == LONG
    assert caplog.messages == []
    later.node("n2", instance="next")
    assert fleet.service.redis.get(TIMES).startswith("20000 40000")
    silence(fleet, "n1", 10_000)
    silence(fleet, "n2", 10_000)
    assert {fleet.dispatch().node_id for _ in range(2)} == {"n1", "n2"}  # it runs all the time
    assert Checker(Views(fleet.service.redis, fleet.service.keys)).check() == []


def test_a_node_that_stops_and_still_runs_jobs_belongs_to_the_fleet(fleet: Desk) -> None:
    job = fleet.dispatch()
    fleet.beat("n1", online=False, jobs=[job.job_id])
    other(fleet, LONG).node("n2")
    assert fleet.service.redis.get(TIMES).startswith("8000 30000")
    fleet.complete(job)
    fleet.beat("n1", online=False, jobs=[])


def test_an_application_logs_a_warning_when_it_connects(
    fleet: Desk, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    port = client.connection_pool.connection_kwargs["port"]
    app = make_app(f"redis://127.0.0.1:{port}/0", minsched_node_ttl=12)
    assert app.minsched.scheduler.settings.node_ttl == 8
    assert app.minsched.views.settings.node_ttl == 8
    assert "minsched_node_ttl is 12 here and 8 in the fleet" in caplog.text


def test_without_a_node_a_process_uses_its_own_times(service: MinimalSchedulerService) -> None:
    """It writes no times for later processes."""
    alone = Desk(MinimalSchedulerService(service.redis, SHORT))
    job_id = alone.park("m", session_id="s")
    assert alone.service.settings == SHORT
    assert not service.redis.exists(TIMES)
    check_layout(service.redis, service.keys)
    assert alone.status(job_id) == "waiting"
