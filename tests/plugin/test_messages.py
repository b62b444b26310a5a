"""Messages come from whoever can write to Redis: nothing of them is believed unchecked."""

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
    "what kombu puts between names": "a\x06\x16:1",
    "what a terminal obeys": "\x1b[2J:1",
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


def headers(job_id: object, **given: object) -> dict[str, Any]:
    demand = {"pool": "asr", "session_id": "u1"}
    task = {"lang": "py", "task": "tests.support.app.where_am_i", "id": str(uuid.uuid4())}
    return {**task, "eta": None, "expires": None, "minsched": {"job_id": job_id, "demand": demand}}


def message(job_id: object) -> str:
    """As kombu's Redis transport sends it."""
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
def test_an_id_that_the_scheduler_never_gave_is_no_job_s(job_id: object) -> None:
    assert job_id_of(headers(job_id)) == ""


@pytest.mark.parametrize("job_id", [":1", "u1:17", "a/b:c:9007199254740991", f"{'ж' * 128}:1"])
def test_an_id_that_it_gives_is_a_job_s(job_id: str) -> None:
    assert job_id_of(headers(job_id)) == job_id


@pytest.mark.parametrize("stated", [None, "x", [], {}, {"minsched": None}, {"minsched": "u:1"}])
def test_headers_of_another_form_are_no_job_s(stated: object) -> None:
    assert job_id_of(stated) == ""


@pytest.mark.parametrize("raw", NO_MESSAGES, ids=range(len(NO_MESSAGES)))
def test_what_is_no_message_is_no_job_s(raw: str | bytes) -> None:
    assert job_id_of(read_message(raw).get("headers")) == ""
    assert request_of(read_message(raw)) is None


def test_a_message_tells_what_its_job_asks_for() -> None:
    asked = read_message(message("u1:7"))
    asked["headers"] |= {"eta": "2030-01-01T00:00:00+00:00", "expires": "2030-01-01T01:00:00"}
    asked["properties"]["priority"] = 6
    request = request_of(asked)
    assert request is not None
    assert (request.pool, request.session_id, request.priority) == ("asr", "u1", 6)
    assert request.due_ts == 1_893_456_000_000
    assert request.expires_ts == request.due_ts + 3_600_000
    assert request.task_id == asked["headers"]["id"]


@pytest.mark.parametrize(
    "spoil",
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
def test_a_message_that_tells_it_wrongly_tells_nothing(spoil: dict[str, object]) -> None:
    asked = read_message(message("u1:7"))
    asked["headers"] |= spoil
    assert request_of(asked) is None
    assert request_of({}) is None


def test_ids_of_tasks_and_jobs_are_bounded_where_they_come_in() -> None:
    with pytest.raises(ValidationError, match="at most 255 characters"):
        DispatchRequest(pool="asr", task_id="x" * 256)
    with pytest.raises(ValidationError, match="unprintable"):
        DispatchRequest(pool="asr", task_id="a\nb")
    with pytest.raises(ValidationError, match="is no job id"):
        HeartbeatRequest(node_id="n1", jobs=["id_seq"])


def test_nothing_of_ours_unpickles() -> None:
    unpickles = re.compile(r"^\s*(import|from) (c?[Pp]ickle|dill|marshal|shelve)\b", re.MULTILINE)
    for package in ("celery_minsched", "node_agent"):
        for path in (ROOT / package).rglob("*.py"):
            assert not unpickles.search(path.read_text(encoding="utf-8")), path


def test_a_node_goes_on_whatever_lies_in_its_queue(fleet: Fleet, client: redis.Redis) -> None:
    for entry in ("x", message(None)):  # an earlier process was killed as it took them
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
