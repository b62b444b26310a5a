"""Adopt messages from plain Celery and release them again while plain workers and nodes run."""

from __future__ import annotations

import json
import signal

import pytest
import redis

from ..support.all_keys import scheduler_keys
from ..support.commands import run_with
from ..support.fleet import Fleet, wait_for
from ..support.plain import plain_worker, put, queue_length

NODES = ("n1", "n2")


@pytest.mark.parametrize("number", [300, pytest.param(5000, marks=pytest.mark.soak)])
def test_each_message_runs_once_whether_it_is_adopted_or_released(
    fleet: Fleet, client: redis.Redis, number: int
) -> None:
    for node_id in NODES:
        fleet.start(node_id, "-P", "threads", slots=4)
    with plain_worker(fleet, "plain", "celery", threads=8):
        fleet.wait_online(*NODES)
        app = fleet.app
        with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
            for n in range(number):
                when = {"countdown": 1 + n % 2} if n % 7 == 0 else {}
                seconds = 0.2 if n < 300 else 0.02  # slow first tasks leave messages to adopt
                put(app, "note", f"{n}", seconds, priority=n % 10, producer=producer, **when)
        report = json.loads(run_with(app, "adopt", "plain", "--pool", "asr", "--json").stdout)
        assert report["adopted"] > 0
        assert queue_length(client) == 0

        wait_for(lambda: has_run_task(client, "celery@"), "nodes to run a task")
        for node_id in NODES:
            assert run_with(app, "drain", node_id).exit_code == 0
        fleet.wait_idle()
        for node_id in NODES:
            fleet.stop(node_id, signal.SIGTERM)
        answer = run_with(app, "release", "--json")
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["returned"]["celery"] > 0
        assert scheduler_keys(client) == []

        wait_for(lambda: ended(client) == number, "plain workers to finish the rest", patience=180)
    began = [client.lrange(f"test:began:{n}", 0, -1) for n in range(number)]
    assert [hosts for hosts in began if len(hosts) != 1] == []
    assert has_run_task(client, "worker@")
    assert scheduler_keys(client) == []


def ended(client: redis.Redis) -> int:
    return sum(1 for _ in client.scan_iter("test:ended:*", count=1000))


def has_run_task(client: redis.Redis, host: str) -> bool:
    """True if a host whose name begins with ``host`` has run a task."""
    keys = client.scan_iter("test:began:*", count=1000)
    return any(client.lindex(key, 0).startswith(host) for key in keys)
