"""``celery minsched adopt`` passes each message of an ordinary queue to a node unchanged."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery

from celery_minsched.consistency.checker import Checker

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import ROOT, app_environment, make_app, wait_for
from ..support.plain import QUEUE, put, queue_length
from ..support.proxy import Proxy
from ..support.server import Server

POOL = ("--pool", "asr")


@pytest.fixture
def app(server: Server) -> Celery:
    return make_app(server.url)


def adopt(app: Celery, *options: str, code: int = 0) -> dict[str, Any]:
    """Run the command and check its exit code. Returns its JSON output."""
    answer = run_with(app, "adopt", QUEUE, "--json", *options)
    assert answer.exit_code == code, answer.output
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def messages(client: redis.Redis) -> list[dict[str, Any]]:
    """All messages in the queues of nodes and jobs."""
    lists = [key for kind in ("node", "job") for key in client.scan_iter(f"minsched.{kind}.*")]
    with client.pipeline(transaction=False) as pipe:
        for key in sorted(lists):
            pipe.lrange(key, 0, -1)
        return [json.loads(raw) for raws in pipe.execute() for raw in raws]


def test_an_adopted_message_keeps_its_headers_and_properties(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    put(app, "mark", "x", 1, task_id="t1", priority=6, headers={"mine": "kept"}, expires=3600)
    [before] = [json.loads(raw) for raw in client.lrange(f"{QUEUE}\x06\x166", 0, -1)]
    assert adopt(app, *POOL)["placed"] == 1
    [after] = messages(client)
    header = after["headers"].pop("minsched")
    assert header["demand"] == {"pool": "asr"}
    job = desk.views.job(header["job_id"])
    assert job is not None
    assert (job.task_id, job.node_id, job.status) == ("t1", "n1", "dispatched")
    assert before["properties"].pop("delivery_info")["routing_key"] == QUEUE
    assert after["properties"].pop("delivery_info")["routing_key"] == "minsched.dispatch"
    assert after == before
    assert queue_length(client) == 0
    assert app.minsched.find_job("t1") == job


def test_an_adopted_message_has_the_form_of_a_sent_message(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    put(app, "mark", "x", 1)
    adopt(app, *POOL)
    app.send_task("tests.support.app.mark", ("x", 1), minsched={"pool": "asr"})
    sent, adopted = messages(client)

    def form(message: dict[str, Any]) -> Any:
        headers = {name: type(value) for name, value in message["headers"].items()}
        info = message["properties"]["delivery_info"]
        return headers, info, message["body"], sorted(message["properties"])

    assert form(sent) == form(adopted)


def test_an_adopted_message_with_an_eta_takes_no_slot(app: Celery, desk: Desk) -> None:
    desk.node("n1", 1)
    when = datetime.now(UTC) + timedelta(hours=1)
    put(app, "mark", "x", 1, task_id="later", eta=when)
    put(app, "mark", "x", 2, task_id="now")
    report = adopt(app, *POOL)
    assert (report["placed"], report["delayed"]) == (1, 1)
    job = app.minsched.find_job("later")
    assert job.status == "delayed"
    assert abs(job.due_ts - when.timestamp() * 1000) < 2


def test_adopted_messages_keep_their_priorities_and_order(app: Celery, desk: Desk) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    sent = []
    for priority in (9, 0, 3, 6, 0, 3):
        put(app, "mark", "x", 1, task_id=f"{priority}-{len(sent)}", priority=priority)
        sent.append((priority, f"{priority}-{len(sent)}"))
    assert adopt(app, *POOL)["busy"] == 6
    in_line = [job.task_id for job in desk.views.in_line("asr//")]
    assert in_line == [name for _, name in sorted(sent, key=lambda item: item[0])]


class TestDemand:
    """The source of an adopted message's demand."""

    def test_the_demand_comes_from_a_route(self, server: Server, desk: Desk) -> None:
        desk.node("n1", 4, ["asr", "mt"])
        app = make_app(server.url, minsched_routes={"tests.support.app.mark": {"pool": "mt"}})
        put(app, "mark", "x", 1, task_id="routed")
        put(app, "other", task_id="not routed")
        adopt(app, *POOL)
        assert app.minsched.find_job("routed").pool == "mt"
        assert app.minsched.find_job("not routed").pool == "asr"

    def test_without_a_route_the_demand_comes_from_the_task(self, app: Celery, desk: Desk) -> None:
        desk.node("n1", 4, ["asr", "mt"])

        demand = {"pool": "mt", "session_id": "u1"}

        @app.task(name="tests.support.app.mark", shared=False, minsched=demand)
        def mark() -> None:
            pass

        put(app, "mark", "x", 1, task_id="t1")
        adopt(app)
        job = app.minsched.find_job("t1")
        assert (job.pool, job.session_id) == ("mt", "u1")

    def test_a_message_without_a_demand_stays_in_its_queue(
        self, app: Celery, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1")
        put(app, "mark", "x", 1)
        before = client.lrange(QUEUE, 0, -1)
        report = adopt(app, code=1)
        reason = "no demand: name a pool with --pool, or in minsched_routes"
        assert report["kinds"] == [
            {"task": "tests.support.app.mark", "messages": 1, "demand": "", "stays": reason}
        ]
        assert client.lrange(QUEUE, 0, -1) == before
        assert "1 tests.support.app.mark stay: no demand" in " ".join(
            run_with(app, "adopt", QUEUE).output.split()
        )

    def test_an_adopted_message_waits_in_spite_of_when_full_error(
        self, server: Server, desk: Desk
    ) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        demand = {"pool": "asr", "when_full": "error"}
        app = make_app(server.url, minsched_routes={"tests.support.app.mark": demand})
        put(app, "mark", "x", 1)
        assert adopt(app)["busy"] == 1

    def test_an_invalid_pool_is_refused(self, app: Celery) -> None:
        answer = run_with(app, "adopt", QUEUE, "--pool", "no pool")
        assert answer.exit_code == 2
        assert "'no pool'" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_entries_that_are_no_tasks_stay_in_the_queue(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 300)
    for n in range(250):
        put(app, "mark", "x", n)
        if n % 2:
            client.lpush(QUEUE, "no message", '{"headers": {}, "properties": {}}', "[]")
    report = adopt(app, *POOL, code=1)
    assert report["adopted"] == 250
    assert sum(kind["messages"] for kind in report["kinds"]) == 375 == queue_length(client)


def test_limit_bounds_the_number_of_adopted_messages(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 9)
    for n in range(5):
        put(app, "mark", "x", n, priority=n % 2)
    assert adopt(app, *POOL, "--limit", "3")["adopted"] == 3
    assert queue_length(client) == 2
    assert adopt(app, *POOL, "--limit", "3")["adopted"] == 2


def test_a_dry_run_changes_nothing(app: Celery, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    for n in range(3):
        put(app, "mark", "x", n, priority=9)
    client.lpush(QUEUE, "no message")
    before = {key: client.type(key) for key in client.scan_iter()}
    answer = run_with(app, "adopt", QUEUE, "--dry-run", *POOL)
    assert answer.exit_code == 1  # one message would stay
    assert "Queue plain has 4 messages." in answer.output
    assert "3  tests.support.app.mark  to asr" in answer.output
    assert {key: client.type(key) for key in client.scan_iter()} == before
    assert queue_length(client) == 4


def test_adopt_stops_if_the_line_is_full(server: Server, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    app = make_app(server.url, minsched_max_waiting=2)
    for n in range(5):
        put(app, "mark", "x", n, task_id=f"t{n}")
    report = adopt(app, *POOL, code=1)
    assert (report["placed"], report["busy"], report["adopted"]) == (1, 2, 3)
    assert report["refused"].startswith("BACKLOGGED")
    left = [json.loads(raw)["headers"]["id"] for raw in client.lrange(QUEUE, 0, -1)]
    assert left == ["t4", "t3"]


def test_an_empty_queue_is_reported(app: Celery) -> None:
    answer = run_with(app, "adopt", "nothing", *POOL)
    assert (answer.exit_code, answer.output) == (0, "Queue nothing is empty.\n")


def test_a_queue_of_the_scheduler_is_refused(app: Celery) -> None:
    answer = run_with(app, "adopt", "minsched.node.n1", *POOL)
    assert answer.exit_code == 2
    assert "is a queue of the scheduler" in answer.stderr


def test_adopt_requires_one_database_for_broker_and_scheduler(server: Server) -> None:
    conf = {"minsched_database_url": f"{server.url[:-1]}1", "minsched_when_full": "error"}
    answer = run_with(make_app(server.url, **conf), "adopt", QUEUE, *POOL)
    assert answer.exit_code == 2
    assert "one Redis database" in answer.stderr


def test_adopt_works_with_a_key_prefix_and_other_priority_steps(
    server: Server, client: redis.Redis
) -> None:
    options = {"global_keyprefix": "a.", "priority_steps": [0, 5], "sep": ":"}
    app = make_app(server.url, broker_transport_options=options)
    put(app, "mark", "x", 1, priority=5)
    assert client.llen(f"a.{QUEUE}:5") == 1
    assert adopt(app, *POOL)["impossible"] == 1
    [queue] = client.scan_iter("a.minsched.job.*")
    assert queue.endswith(":5")


def test_a_message_that_a_worker_takes_first_is_not_adopted(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    from celery_minsched.migration.adopt import Adopter

    desk.node("n1", 9)
    for n in range(3):
        put(app, "mark", "x", n)
    adopter = Adopter(app.minsched, QUEUE, "asr")
    read = adopter._read_page

    def read_and_pop(queue: str, passed: int) -> list[bytes]:
        page = read(queue, passed)
        client.rpop(queue)  # a worker takes a message before the script runs
        return page

    adopter._read_page = read_and_pop  # type: ignore[method-assign]
    assert adopter.adopt().adopted == 2
    assert len(messages(client)) == 2
    assert queue_length(client) == 0


class Dam(Proxy):
    """A proxy that stops all traffic as soon as ``is_full`` is true."""

    def __init__(self, target: int) -> None:
        self.is_full: Callable[[], bool] = lambda: False
        self.holds = False
        super().__init__(target)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.holds = self.holds or self.is_full()
        if not self.holds:
            super()._write(writer, data)


def test_adopt_loses_and_repeats_no_message_if_it_is_killed(
    app: Celery, server: Server, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 40)
    rand = random.Random(3)
    sent = set()
    with app.pool.acquire(block=True) as connection, app.amqp.Producer(connection) as producer:
        for n in range(900):
            when = {"countdown": 3600} if n % 9 == 0 else {}
            result = put(app, "mark", "x", n, priority=n % 10, producer=producer, **when)
            sent.add(result.id)

    def start(url: str) -> subprocess.Popen[bytes]:
        environment = app_environment(url)
        command = ("-A", "tests.support.app", "minsched", "adopt", QUEUE)
        program = [sys.executable, "-m", "celery", *command]
        return subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)

    def task_ids() -> list[str]:
        plain = [
            json.loads(raw)
            for key in client.scan_iter(f"{QUEUE}*")
            for raw in client.lrange(key, 0, -1)
        ]
        return [message["headers"]["id"] for message in [*plain, *messages(client)]]

    for most in (900, 450):
        dam, goal = Dam(server.port), rand.randrange(most // 2, most)
        dam.is_full = lambda goal=goal: queue_length(client) < goal  # type: ignore[misc]
        process = start(dam.url)
        wait_for(lambda dam=dam: dam.holds, "some to be adopted", patience=60)  # type: ignore[misc]
        process.kill()
        process.wait()
        dam.close()
        assert 0 < queue_length(client) < goal
        assert sorted(task_ids()) == sorted(sent)
    assert start(server.url).wait(60) == 0
    assert queue_length(client) == 0
    assert sorted(task_ids()) == sorted(sent)
    assert Checker(desk.views).check() == []
