"""Each lost job is reported separately. A failed report blocks no other report and no rescue."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult

from celery_minsched import MinimalSchedulerService, NodeLostError, Settings
from celery_minsched.consistency.checker import Checker
from node_agent.lost_jobs import report_next
from node_agent.rescuer import rescue

from ..support.desk import Desk, silence
from ..support.fleet import FAST, Fleet, make_app, wait_for
from ..support.server import Server, milliseconds


@pytest.fixture
def slow_fleet(server: Server) -> Iterator[Fleet]:
    """The workers of this fleet retry without end if the result backend fails."""
    fleet = Fleet(server, celery={"result_backend_always_retry": True}, **FAST)
    yield fleet
    assert Checker(fleet.views).check() == []
    fleet.close()


def is_lost(fleet: Fleet, result: AsyncResult) -> bool:
    return isinstance(
        fleet.app.backend.get_task_meta(result.id, cache=False)["result"], NodeLostError
    )


def test_an_unreachable_result_backend_blocks_no_other_report_and_no_rescue(
    slow_fleet: Fleet, client: redis.Redis
) -> None:
    fleet = slow_fleet
    fleet.start_ready("n1", "-P", "threads", slots=6)
    bad = [fleet.send("hold_unstorable", f"bad{n}") for n in range(2)]
    good = [fleet.send("hold", f"good{n}") for n in range(3)]
    names = ["bad0", "bad1", "good0", "good1", "good2"]
    wait_for(lambda: client.exists(*(f"test:began:{name}" for name in names)) == len(names))
    fleet.start_ready("n2", "-P", "threads", slots=1)
    fleet.destroy("n1")
    wait_for(lambda: all(is_lost(fleet, result) for result in good))
    wait_for(lambda: "node n1 is dead: 0 jobs placed again, 5 lost" in fleet.log("n2"))

    # The reports of the bad jobs block in n2. It rescues another node meanwhile.
    fleet.start_ready("n3", "-P", "threads", slots=1, pool="other")
    late = fleet.send("hold", "late", minsched={"pool": "other"})
    wait_for(lambda: client.exists("test:began:late"))
    fleet.destroy("n3")
    wait_for(lambda: is_lost(fleet, late))
    jobs = {fleet.job(result.id).job_id for result in bad}  # type: ignore[union-attr]
    wait_for(lambda: set(client.zrange("scheduler:lost", 0, -1)) == jobs)
    assert fleet.stop("n2") == 0


def lose(desk: Desk, task_id: str, message: str = "{}") -> str:
    """Dispatch a job whose message is acknowledged, so a dead node loses it. Returns its id."""
    job = desk.dispatch(task_id=task_id)
    keys, redis = desk.service.keys, desk.service.redis
    desk.service.claim_job(job.job_id, job.node_id, f"tag-{task_id}")
    redis.hset(keys("node_unacked", job.node_id), f"tag-{task_id}", f"[{message}, null, null]")
    redis.sadd(keys("node_acked", job.node_id), f"tag-{task_id}")
    return job.job_id


def declare_dead_and_rescue(desk: Desk, node_id: str) -> tuple[int, int, int]:
    silence(desk, node_id, 60_000)
    desk.service.declare_dead(node_id)
    return desk.service.rescue_node(node_id)


def test_a_lost_job_can_be_claimed_again_after_increasing_pauses(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    jobs = {lose(desk, "t1"), lose(desk, "t2")}
    assert declare_dead_and_rescue(desk, "n1") == (0, 2, 0)
    assert {desk.service.claim_lost_job() for _ in range(2)} == jobs
    assert desk.service.claim_lost_job() == ""
    pauses = []
    for age in (0, 15_000, 60_000, 3_600_000):
        now = milliseconds(client)
        for job_id in jobs:
            client.zadd("scheduler:lost", {job_id: 0})
            client.hset(f"scheduler:job:{job_id}", "ended_ts", now - age)
        claimed = desk.service.claim_lost_job()
        pauses.append(round((client.zscore("scheduler:lost", claimed) or 0) - now, -3))
    assert pauses == [10_000, 15_000, 60_000, 600_000]
    client.zrem("scheduler:lost", *jobs)
    client.delete("minsched.unacked.n1", "minsched.acked.n1")


def test_an_unreported_job_is_given_up_with_an_event(client: redis.Redis) -> None:
    desk = Desk(MinimalSchedulerService(client, Settings(history_ttl=100)))
    desk.node("n1")
    job_id = lose(desk, "t1")
    declare_dead_and_rescue(desk, "n1")
    assert desk.service.claim_lost_job() == job_id
    client.hset(f"scheduler:job:{job_id}", "ended_ts", milliseconds(client) - 100_001)
    client.zadd("scheduler:lost", {job_id: 0})
    assert desk.service.claim_lost_job() == ""
    assert not client.exists("scheduler:lost")
    assert not client.keys("minsched.*")
    assert desk.status(job_id) == "lost"
    last = list(desk.views.events())[-1]
    assert (last.kind, last.fields["job"]) == ("job_unreported", job_id)


MESSAGES = {
    "no message": "null",
    "no headers": '{"body": "W10=", "properties": {}}',
    "headers that are a list": '{"body": "W10=", "headers": [], "properties": {}}',
    "properties without a body": '{"headers": {"task": "t", "id": "x"}, "properties": {}}',
    "a task that no application has": '{"body": "W10=", "headers": {"task": "t", "id": "x"},'
    ' "properties": {"delivery_tag": "d", "delivery_info": {}}}',
    "errbacks that are none": '{"body": "W1tdLCB7fSwge31d", "content-type": "application/json",'
    ' "content-encoding": "utf-8", "headers": {"task": "tests.support.app.hold",'
    ' "id": "errbacks that are none", "errbacks": 7},'
    ' "properties": {"delivery_tag": "d", "delivery_info": {}, "body_encoding": "base64"}}',
}


def test_an_invalid_message_blocks_no_other_report(server: Server, client: redis.Redis) -> None:
    app = make_app(server.url)

    @app.task(name="tests.support.app.hold", shared=False)
    def hold() -> None:
        pass

    desk = Desk(app.minsched.scheduler)
    desk.node("n1", len(MESSAGES) + 1)
    for name, message in MESSAGES.items():
        lose(desk, name, message)
    last = lose(desk, "last")
    declare_dead_and_rescue(desk, "n1")
    while report_next(app.minsched):
        pass
    assert not client.zscore("scheduler:lost", last)
    for name in (*MESSAGES, "last"):
        error = app.backend.get_task_meta(name, cache=False)["result"]
        assert isinstance(error, NodeLostError), name


def test_a_report_is_repeated_when_the_result_backend_is_back(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    app: Celery = make_app(server.url)
    desk = Desk(app.minsched.scheduler)
    desk.node("n1")
    job_id = lose(desk, "t1")
    declare_dead_and_rescue(desk, "n1")
    reachable, unreachable = app.backend, RedisBackend(app=app, url="redis://127.0.0.1:1/0")
    unreachable._transport_options = {"retry_policy": {"max_retries": 0}}
    app._backend = unreachable
    assert report_next(app.minsched)
    assert f"lost job {job_id} is reported to its caller later" in caplog.text
    client.zadd("scheduler:lost", {job_id: 0})
    app._backend = reachable
    assert report_next(app.minsched)
    assert isinstance(reachable.get_task_meta("t1", cache=False)["result"], NodeLostError)


def test_an_entry_that_is_no_message_blocks_no_rescue(server: Server, client: redis.Redis) -> None:
    app = make_app(server.url)
    desk = Desk(app.minsched.scheduler)
    desk.node("n1")
    job_id = lose(desk, "t1")
    client.srem("minsched.acked.n1", "tag-t1")
    header = json.dumps({"task": "t", "id": "t1", "minsched": {"job_id": job_id}})
    client.hset(
        "minsched.unacked.n1",
        mapping={
            "tag-t1": f'[{{"headers": {header}, "properties": []}}, "", ""]',
            "text": "no JSON",
            "null": "null",
            "number": "[7, 8, 9]",
            "short": "[]",
        },
    )
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    rescue(app.minsched)
    assert desk.status(job_id) == "waiting"
    assert not client.exists("scheduler:rescues")


def test_a_claim_ends_if_the_clock_of_the_server_is_set_back(
    desk: Desk, client: redis.Redis
) -> None:
    """With the new clock the earlier claims end in an hour."""
    desk.node("n1")
    desk.node("n2", pools=["other"])
    job_id = lose(desk, "t1")
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    in_an_hour = milliseconds(client) + 3_600_000
    client.zadd("scheduler:rescues", {"n1": in_an_hour})
    assert desk.beat("n2", rescues=True).rescue_due
    assert desk.service.claim_rescue() == ("n1", "dead")
    assert not desk.beat("n2", rescues=True).rescue_due
    desk.service.rescue_node("n1")
    client.zadd("scheduler:lost", {job_id: in_an_hour})
    assert desk.beat("n2", rescues=True).rescue_due
    assert desk.service.claim_lost_job() == job_id
    assert not desk.beat("n2", rescues=True).rescue_due
    client.zrem("scheduler:lost", job_id)
    client.delete("minsched.unacked.n1", "minsched.acked.n1")


def test_an_unreachable_broker_blocks_no_rescue(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The scheduler uses another Redis than the broker."""
    conf = {"minsched_database_url": server.url, "minsched_when_full": "error"}
    app = make_app("redis://127.0.0.1:1/0", **conf)
    desk = Desk(app.minsched.scheduler)
    desk.node("n1")
    silence(desk, "n1", 60_000)
    desk.service.declare_dead("n1")
    rescue(app.minsched)
    assert "the mailbox of node n1 is not removed" in caplog.text
    assert "node n1 is dead: 0 jobs placed again, 0 lost" in caplog.text
    assert not client.exists("scheduler:rescues")
