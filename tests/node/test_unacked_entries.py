"""An invalid entry among a node's unacknowledged messages blocks no rescue."""

from __future__ import annotations

import json

import pytest
import redis

from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair
from node_agent.requeue import take_over
from node_agent.rescuer import rescue

from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.server import Server

UNACKED = "minsched.unacked.n1"
NO_MESSAGES = {
    "a text": "not json",
    "nothing": "",
    "bytes": b"\xff\xfe",
    "nested too deep": "[" * 100_000,
    "a number too long": "[" + "9" * 5000 + "]",
    "an object": '{"a": 1}',
    "an empty list": "[]",
    "a number": '[5, "", ""]',
    "two parts": '[{"headers": {}}, ""]',
    "a date of no date": '[{"headers": {"__type__": "date", "__value__": 5}}, "", ""]',
    "bytes of no base64": '[{"__type__": "bytes", "bytes": "*", "__value__": 4}, "", ""]',
}


def test_invalid_entries_do_not_block_the_rescue_of_the_other_messages(
    desk: Desk, client: redis.Redis, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = make_app(server.url).minsched
    desk.node("n1")
    job = desk.send()
    desk.take("n1")
    desk.beat("n1", jobs=[job.job_id])
    message = {"headers": {"minsched": {"job_id": job.job_id}}, "properties": {}}
    client.hset(UNACKED, mapping=NO_MESSAGES)  # type: ignore[arg-type]
    client.hset(UNACKED, "tag", json.dumps([message, "", f"minsched.job.{job.job_id}"]))
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    desk.node("n2")

    rescue(plugin)
    assert (desk.status(job.job_id), desk.taken("n2")) == ("dispatched", 1)
    assert client.zcard("scheduler:rescues") == 0
    assert set(client.hkeys(UNACKED)) == NO_MESSAGES.keys()
    take_over(plugin, "n1")  # the node itself reads the entries again
    for name in NO_MESSAGES:
        assert caplog.text.count(f"field {name!r} of {UNACKED} is not a message") == 1, name

    checker = Checker(desk.views)
    violations = checker.check(0)
    codes = [(violation.code, UNACKED in violation.keys) for violation in violations]
    assert codes == [("left_behind", True)]
    assert repair(desk.service, checker, violations, 0) == []
    assert client.exists(UNACKED) == 0
