"""Every client of Redis can write a message. The code checks each value that it reads from one."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any

import pytest
import redis
from pydantic import ValidationError

from celery_minsched import DispatchRequest, HeartbeatRequest
from celery_minsched.consistency.checker import Checker
from celery_minsched.plugin.messages import job_id_of, read_message, request_of

from ..support.fleet import ROOT, Fleet

HOSTILE_IDS = {
    "a key that is no job": "id_seq",
    "no number": "u1:",
    "a long session": f"{'x' * 129}:1",
    "a long number": f"u1:{'1' * 17}",
    "a line break": "a\n:1",
    "kombu's separator of names": "a\x06\x16:1",
    "a terminal's control sequence": "\x1b[2J:1",
    "a number": 7,
    "nothing": None,
    "an object": {"id": "u1:1"},
}


NO_MESSAGES = [
    *("", "x", "7", "[]", "null", "{}", "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe"),
    *('{"properties": 7}', '{"properties": {}}', '{"properties": {"delivery_tag": "t"}}'),
    '{"body": "x", "properties": {"delivery_tag": "t", "body_encoding": "base64"}}',
    '{"properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": []}',
]


def headers(job_id: object, **fields: object) -> dict[str, Any]:
    demand = {"pool": "asr", "session_id": "u1"}
    task = {"lang": "py", "task": "tests.support.app.where_am_i", "id": str(uuid.uuid4())}
    return {**task, "eta": None, "expires": None, "minsched": {"job_id": job_id, "demand": demand}}


def message(job_id: object) -> str:
    """A message in the format of kombu's Redis transport."""
    properties = {
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": "minsched.node.n1"},
        "body_encoding": "base64",
        "priority": 0,
    }
    body = base64.b64encode(b"[[], {}, {}]").decode()
    kind = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": body, **kind, "headers": headers(job_id), "properties": properties})


@pytest.mark.parametrize("job_id", HOSTILE_IDS.values(), ids=HOSTILE_IDS)
def test_an_id_that_the_scheduler_cannot_create_is_no_job_id(job_id: object) -> None:
    assert job_id_of(headers(job_id)) == ""


@pytest.mark.parametrize("job_id", [":1", "u1:17", "a/b:c:9007199254740991", f"{'ж' * 128}:1"])
def test_an_id_that_the_scheduler_creates_is_a_job_id(job_id: str) -> None:
    assert job_id_of(headers(job_id)) == job_id


@pytest.mark.parametrize("value", [None, "x", [], {}, {"minsched": None}, {"minsched": "u:1"}])
def test_headers_of_another_form_give_no_job_id(value: object) -> None:
    assert job_id_of(value) == ""


@pytest.mark.parametrize("raw", NO_MESSAGES, ids=range(len(NO_MESSAGES)))
def test_an_entry_that_is_no_message_gives_no_job(raw: str | bytes) -> None:
    assert job_id_of(read_message(raw).get("headers")) == ""
    assert request_of(read_message(raw)) is None


def test_a_message_gives_the_request_of_its_job() -> None:
    sent = read_message(message("u1:7"))
    sent["headers"] |= {"eta": "2030-01-01T00:00:00+00:00", "expires": "2030-01-01T01:00:00"}
    sent["properties"]["priority"] = 6
    request = request_of(sent)
    assert request is not None
    assert (request.pool, request.session_id, request.priority) == ("asr", "u1", 6)
    assert request.due_ts == 1_893_456_000_000
    assert request.expires_ts == request.due_ts + 3_600_000
    assert request.task_id == sent["headers"]["id"]


@pytest.mark.parametrize(
    "invalid",
    [
        {"minsched": None},
        {"minsched": {"demand": "asr"}},
        {"minsched": {"demand": {"pool": "a/b"}}},
        {"minsched": {"demand": {"pol": "asr"}}},
        {"eta": "tomorrow"},
        {"eta": 7},
        {"id": None},
        {"id": "x" * 256},
        {"id": "a\nb"},
    ],
    ids=str,
)
def test_a_message_with_an_invalid_header_gives_no_request(invalid: dict[str, object]) -> None:
    sent = read_message(message("u1:7"))
    sent["headers"] |= invalid
    assert request_of(sent) is None
    assert request_of({}) is None


def test_requests_refuse_task_and_job_ids_of_another_form() -> None:
    with pytest.raises(ValidationError, match="at most 255 characters"):
        DispatchRequest(pool="asr", task_id="x" * 256)
    with pytest.raises(ValidationError, match="unprintable"):
        DispatchRequest(pool="asr", task_id="a\nb")
    with pytest.raises(ValidationError, match="is not a job id"):
        HeartbeatRequest(node_id="n1", jobs=["id_seq"])


def test_no_module_unpickles() -> None:
    pickle_import = re.compile(
        r"^\s*(import|from) (c?[Pp]ickle|dill|marshal|shelve)\b", re.MULTILINE
    )
    for package in ("celery_minsched", "node_agent"):
        for path in (ROOT / package).rglob("*.py"):
            assert not pickle_import.search(path.read_text(encoding="utf-8")), path


def test_a_node_survives_every_entry_of_its_queue(fleet: Fleet, client: redis.Redis) -> None:
    for entry in ("x", message(None)):  # an earlier process died while it took them
        client.lpush("minsched.taken.n1", entry)
    fleet.start_ready("n1", "-P", "threads")
    for job_id in HOSTILE_IDS.values():
        client.lpush("minsched.node.n1", message(job_id))
    for entry in NO_MESSAGES:
        client.lpush("minsched.node.n1", entry)
    assert fleet.send("where_am_i").get(timeout=20)["hostname"] == "celery@n1"
    fleet.wait_idle()
    assert fleet.processes["n1"].poll() is None
    assert client.keys("minsched.*") == []
    assert Checker(fleet.views).check() == []
    assert set(client.keys("scheduler:job:*")) == {"scheduler:job:id_seq", "scheduler:job::1"}
