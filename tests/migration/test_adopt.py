"""``celery minsched adopt``: what waits in an ordinary queue goes to nodes, once, and as it was."""

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
from ..support.plain import QUEUE, lying, put
from ..support.proxy import Proxy
from ..support.server import Server

POOL = ("--pool", "asr")


@pytest.fixture
def app(server: Server) -> Celery:
    return make_app(server.url)


def adopted(app: Celery, *options: str, code: int = 0) -> dict[str, Any]:
    answer = run_with(app, "adopt", QUEUE, "--json", *options)
    assert answer.exit_code == code, answer.output
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def messages(client: redis.Redis) -> list[dict[str, Any]]:
    """All that lie in queues of nodes and of jobs."""
    lists = [key for kind in ("node", "job") for key in client.scan_iter(f"minsched.{kind}.*")]
    with client.pipeline(transaction=False) as pipe:
        for key in sorted(lists):
            pipe.lrange(key, 0, -1)
        return [json.loads(raw) for raws in pipe.execute() for raw in raws]


def test_a_message_goes_to_a_node_with_all_that_it_says(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    put(app, "mark", "x", 1, task_id="t1", priority=6, headers={"mine": "kept"}, expires=3600)
    [before] = [json.loads(raw) for raw in client.lrange(f"{QUEUE}\x06\x166", 0, -1)]
    assert adopted(app, *POOL)["placed"] == 1
    [after] = messages(client)
    said = after["headers"].pop("minsched")
    assert said["demand"] == {"pool": "asr"}
    job = desk.views.job(said["job_id"])
    assert job is not None
    assert (job.task_id, job.node_id, job.status) == ("t1", "n1", "dispatched")
    assert before["properties"].pop("delivery_info")["routing_key"] == QUEUE
    assert after["properties"].pop("delivery_info")["routing_key"] == "minsched.dispatch"
    assert after == before
    assert lying(client) == 0
    assert app.minsched.where("t1") == job


def test_it_is_as_a_message_that_was_sent_now(app: Celery, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    put(app, "mark", "x", 1)
    adopted(app, *POOL)
    app.send_task("tests.support.app.mark", ("x", 1), minsched={"pool": "asr"})
    sent, taken_over = messages(client)

    def form(message: dict[str, Any]) -> Any:
        headers = {name: type(value) for name, value in message["headers"].items()}
        info = message["properties"]["delivery_info"]
        return headers, info, message["body"], sorted(message["properties"])

    assert form(sent) == form(taken_over)


def test_an_eta_is_kept_and_holds_no_slot(app: Celery, desk: Desk) -> None:
    desk.node("n1", 1)
    when = datetime.now(UTC) + timedelta(hours=1)
    put(app, "mark", "x", 1, task_id="later", eta=when)
    put(app, "mark", "x", 2, task_id="now")
    told = adopted(app, *POOL)
    assert (told["placed"], told["delayed"]) == (1, 1)
    job = app.minsched.where("later")
    assert job.status == "delayed"
    assert abs(job.due_ts - when.timestamp() * 1000) < 2


def test_priorities_and_order_are_kept_in_line(app: Celery, desk: Desk) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    wanted = []
    for priority in (9, 0, 3, 6, 0, 3):
        put(app, "mark", "x", 1, task_id=f"{priority}-{len(wanted)}", priority=priority)
        wanted.append((priority, f"{priority}-{len(wanted)}"))
    assert adopted(app, *POOL)["busy"] == 6
    in_line = [job.task_id for job in desk.views.in_line("asr//")]
    assert in_line == [name for _, name in sorted(wanted, key=lambda item: item[0])]


class TestDemand:
    """What a message asks for."""

    def test_routes_are_asked_first(self, server: Server, desk: Desk) -> None:
        desk.node("n1", 4, ["asr", "mt"])
        app = make_app(server.url, minsched_routes={"tests.support.app.mark": {"pool": "mt"}})
        put(app, "mark", "x", 1, task_id="routed")
        put(app, "other", task_id="not routed")
        adopted(app, *POOL)
        assert app.minsched.where("routed").pool == "mt"
        assert app.minsched.where("not routed").pool == "asr"

    def test_then_the_task_is(self, app: Celery, desk: Desk) -> None:
        desk.node("n1", 4, ["asr", "mt"])

        demand = {"pool": "mt", "session_id": "u1"}

        @app.task(name="tests.support.app.mark", shared=False, minsched=demand)
        def mark() -> None:
            pass

        put(app, "mark", "x", 1, task_id="t1")
        adopted(app)
        job = app.minsched.where("t1")
        assert (job.pool, job.session_id) == ("mt", "u1")

    def test_one_without_stays_and_it_is_said_why(
        self, app: Celery, desk: Desk, client: redis.Redis
    ) -> None:
        desk.node("n1")
        put(app, "mark", "x", 1)
        before = client.lrange(QUEUE, 0, -1)
        told = adopted(app, code=1)
        why = "no demand: name a pool with --pool, or in minsched_routes"
        assert told["kinds"] == [
            {"task": "tests.support.app.mark", "messages": 1, "demand": "", "stays": why}
        ]
        assert client.lrange(QUEUE, 0, -1) == before
        assert "1 tests.support.app.mark stay: no demand" in " ".join(
            run_with(app, "adopt", QUEUE).output.split()
        )

    def test_that_it_may_not_wait_says_nothing_of_what_waits_already(
        self, server: Server, desk: Desk
    ) -> None:
        desk.node("n1", 1)
        desk.dispatch()
        demand = {"pool": "asr", "when_full": "error"}
        app = make_app(server.url, minsched_routes={"tests.support.app.mark": demand})
        put(app, "mark", "x", 1)
        assert adopted(app)["busy"] == 1

    def test_one_that_cannot_be_read_is_named(self, app: Celery) -> None:
        answer = run_with(app, "adopt", QUEUE, "--pool", "no pool")
        assert answer.exit_code == 2
        assert "'no pool'" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_what_is_no_task_stays_and_all_the_others_go(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 300)
    for n in range(250):
        put(app, "mark", "x", n)
        if n % 2:
            client.lpush(QUEUE, "no message", '{"headers": {}, "properties": {}}', "[]")
    told = adopted(app, *POOL, code=1)
    assert told["adopted"] == 250
    assert sum(kind["messages"] for kind in told["kinds"]) == 375 == lying(client)


def test_no_more_than_the_limit(app: Celery, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 9)
    for n in range(5):
        put(app, "mark", "x", n, priority=n % 2)
    assert adopted(app, *POOL, "--limit", "3")["adopted"] == 3
    assert lying(client) == 2
    assert adopted(app, *POOL, "--limit", "3")["adopted"] == 2


def test_a_dry_run_changes_nothing(app: Celery, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    for n in range(3):
        put(app, "mark", "x", n, priority=9)
    client.lpush(QUEUE, "no message")
    before = {key: client.type(key) for key in client.scan_iter()}
    answer = run_with(app, "adopt", QUEUE, "--dry-run", *POOL)
    assert answer.exit_code == 1  # one would stay
    assert "Queue plain has 4 messages." in answer.output
    assert "3  tests.support.app.mark  to asr" in answer.output
    assert {key: client.type(key) for key in client.scan_iter()} == before
    assert lying(client) == 4


def test_it_stops_where_the_line_is_full(server: Server, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    app = make_app(server.url, minsched_max_waiting=2)
    for n in range(5):
        put(app, "mark", "x", n, task_id=f"t{n}")
    told = adopted(app, *POOL, code=1)
    assert (told["placed"], told["busy"], told["adopted"]) == (1, 2, 3)
    assert told["refused"].startswith("BACKLOGGED")
    left = [json.loads(raw)["headers"]["id"] for raw in client.lrange(QUEUE, 0, -1)]
    assert left == ["t4", "t3"]  # in their order


def test_an_empty_queue_is_said_to_be_so(app: Celery) -> None:
    answer = run_with(app, "adopt", "nothing", *POOL)
    assert (answer.exit_code, answer.output) == (0, "Queue nothing is empty.\n")


def test_a_queue_of_the_schedulers_own_is_refused(app: Celery) -> None:
    answer = run_with(app, "adopt", "minsched.node.n1", *POOL)
    assert answer.exit_code == 2
    assert "the scheduler's own" in answer.stderr


def test_it_needs_the_messages_and_the_scheduler_in_one_database(server: Server) -> None:
    conf = {"minsched_database_url": f"{server.url[:-1]}1", "minsched_when_full": "error"}
    answer = run_with(make_app(server.url, **conf), "adopt", QUEUE, *POOL)
    assert answer.exit_code == 2
    assert "one Redis database" in answer.stderr


def test_below_a_key_prefix_and_with_other_priority_steps(
    server: Server, client: redis.Redis
) -> None:
    options = {"global_keyprefix": "a.", "priority_steps": [0, 5], "sep": ":"}
    app = make_app(server.url, broker_transport_options=options)
    put(app, "mark", "x", 1, priority=5)
    assert client.llen(f"a.{QUEUE}:5") == 1
    assert adopted(app, *POOL)["impossible"] == 1
    [place] = client.scan_iter("a.minsched.job.*")
    assert place.endswith(":5")


def test_a_message_that_a_worker_takes_first_is_the_workers(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    from celery_minsched.migration.adopt import Adopter

    desk.node("n1", 9)
    for n in range(3):
        put(app, "mark", "x", n)
    adopter = Adopter(app.minsched, QUEUE, "asr")
    read = adopter._page

    def read_late(place: str, passed: int) -> list[bytes]:
        page = read(place, passed)
        client.rpop(place)  # between the look and the step
        return page

    adopter._page = read_late  # type: ignore[method-assign]
    assert adopter.adopt().adopted == 2
    assert len(messages(client)) == 2
    assert lying(client) == 0


class Dam(Proxy):
    """Lets nothing through from the moment when ``is_full`` first says so."""

    def __init__(self, target: int) -> None:
        self.is_full: Callable[[], bool] = lambda: False
        self.holds = False
        super().__init__(target)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        self.holds = self.holds or self.is_full()
        if not self.holds:
            super()._write(writer, data)


def test_killed_half_way_it_has_lost_and_doubled_nothing(
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

    def where() -> list[str]:
        plain = [
            json.loads(raw)
            for key in client.scan_iter(f"{QUEUE}*")
            for raw in client.lrange(key, 0, -1)
        ]
        return [message["headers"]["id"] for message in [*plain, *messages(client)]]

    for most in (900, 450):
        dam, goal = Dam(server.port), rand.randrange(most // 2, most)
        dam.is_full = lambda goal=goal: lying(client) < goal  # type: ignore[misc]
        process = start(dam.url)
        wait_for(lambda dam=dam: dam.holds, "some to be adopted", patience=60)  # type: ignore[misc]
        process.kill()
        process.wait()
        dam.close()
        assert 0 < lying(client) < goal
        assert sorted(where()) == sorted(sent)
    assert start(server.url).wait(60) == 0
    assert lying(client) == 0
    assert sorted(where()) == sorted(sent)
    assert Checker(desk.views).check() == []
