"""A value that an earlier dispatch has left in a cache never reaches a later one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.result import AsyncResult
from celery.utils.saferepr import saferepr

from celery_minsched import InvalidDemand
from celery_minsched.plugin.batch import args_text

from ..support.fleet import make_app
from ..support.server import Server


@pytest.fixture
def app(server: Server, client: redis.Redis) -> Iterator[Celery]:
    with make_app(server.url) as app:
        add_task(app, {"pool": "asr"})
        yield app


def add_task(app: Celery, demand: dict[str, Any]) -> None:
    def work(*args: Any) -> None: ...

    app.task(name="work", minsched=demand, shared=False)(work)


def record(app: Celery, client: redis.Redis, result: AsyncResult) -> dict[str, Any]:
    """The job's record, and the scheduler's header in its message."""
    job = app.minsched.find_job(result.id)
    lists = [f"minsched.job.{job.job_id}{end}" for end in app.minsched.scheduler.keys.suffixes]
    [raw] = [raw for name in lists for raw in client.lrange(name, 0, -1)]
    header = json.loads(raw)["headers"]["minsched"]
    assert header["job_id"] == job.job_id
    missing = dict.fromkeys(("session_id", "preferred", "fairness", "caps", "suffix"), "")
    missing |= dict.fromkeys(("due_ts", "expires_ts"), "0")
    stored = client.hgetall(f"scheduler:job:{job.job_id}")
    return {**missing, **stored, "header": header["demand"]}


def test_a_demand_that_changes_between_two_calls(app: Celery, client: redis.Redis) -> None:
    task = app.tasks["work"]
    task.delay()
    task.minsched["pool"] = "mt"
    changed = record(app, client, task.delay())
    assert (changed["where"], changed["header"]) == ("mt", {"pool": "mt"})
    task.minsched["capabilities"] = ["gpu"]
    assert record(app, client, task.delay())["caps"] == "gpu"
    task.minsched["capabilities"].append("fast")
    assert record(app, client, task.delay())["caps"] == "fast,gpu"
    task.minsched["pools"] = ["mt"]
    with pytest.raises(InvalidDemand, match="no key 'pools'"):
        task.delay()


def test_a_task_that_is_registered_again(app: Celery, client: redis.Redis) -> None:
    app.minsched.dispatch_many([app.tasks["work"].s(number) for number in range(2)])
    app.tasks.unregister("work")
    add_task(app, {"pool": "mt", "when_full": "wait"})
    work = app.tasks["work"]
    results = [work.delay(), *app.minsched.dispatch_many([work.s(number) for number in range(2)])]
    assert [record(app, client, result)["where"] for result in results] == ["mt"] * 3


def test_each_call_has_its_own_fields_and_headers(app: Celery, client: redis.Redis) -> None:
    calls: list[dict[str, Any]] = [
        {"minsched": {"session_id": "u1"}, "priority": 9},
        {"minsched": {"session_id": "u2", "preferred_node": "n1"}, "headers": {"mine": 1}},
        {"minsched": {"session_id": 2, "fairness_key": "f"}, "countdown": 1000},
        {"minsched": {"src_lang": "zh", "tgt_lang": "en"}, "expires": 1000, "headers": {"mine": 2}},
        {},
    ]
    for _ in range(2):
        records = [record(app, client, app.tasks["work"].apply_async(**call)) for call in calls]
        assert [each["session_id"] for each in records] == ["u1", "u2", "2", "", ""]
        assert [each["suffix"] != "" for each in records] == [True, *[False] * 4]
        assert [each["preferred"] for each in records] == ["", "n1", "", "", ""]
        assert [each["fairness"] for each in records] == ["u1", "u2", "f", "", ""]
        assert [each["where"] for each in records] == ["asr"] * 3 + ["asr=zh:en", "asr"]
        assert [each["due_ts"] != "0" for each in records] == [False, False, True, False, False]
        assert [each["expires_ts"] != "0" for each in records] == [*[False] * 3, True, False]
        assert len({each["token"] for each in records}) == len(records)
        assert [each["token"] == each["task_id"] for each in records] == [False] * len(records)
    raws = [raw for key in client.keys("minsched.job.*") for raw in client.lrange(key, 0, -1)]
    assert sorted(str(json.loads(raw)["headers"].get("mine")) for raw in raws) == [
        *("1", "1", "2", "2"),
        *["None"] * 6,
    ]


def test_equal_numbers_and_truth_values_are_different_demands(app: Celery) -> None:
    work = app.tasks["work"]
    work.apply_async(minsched={"session_id": 1})
    for value in (True, 1.0):
        with pytest.raises(InvalidDemand, match=f"session_id = {value}"):
            work.apply_async(minsched={"session_id": value})
        signatures = [work.s(0).set(minsched={"session_id": each}) for each in (1, value)]
        with pytest.raises(InvalidDemand, match=f"session_id = {value}"):
            app.minsched.dispatch_many(signatures)


def test_a_template_serves_all_hundreds_of_a_batch(app: Celery, client: redis.Redis) -> None:
    signatures = [app.tasks["work"].s(number) for number in range(350)]
    results = app.minsched.dispatch_many(signatures)
    assert [record(app, client, result)["task_id"] for result in results] == [
        result.id for result in results
    ]


@pytest.mark.parametrize(
    "args",
    [
        *((), (1,), (1, 2.5, True, None), ("it's", "zwei\n", "\\"), ("a" * 400, "b" * 400, "c")),
        *(("a" * 2000,), ("a" * 1018,), ("a" * 1019,), ("a" * 1020, 1), ("a" * 1024,)),
        *(([1, "a"], {"b": (1,)}), [1, "a"], (b"bytes",), (1, range(3)), tuple(range(400))),
    ],
)
def test_the_text_of_arguments_is_that_of_celery(args: Any) -> None:
    assert args_text(args, 1024, 3) == saferepr(args, 1024, 3)
