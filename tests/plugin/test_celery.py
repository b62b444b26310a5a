"""Celery's features work for tasks with a demand and for tasks without a demand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group, signals, signature
from celery.beat import Scheduler as BeatScheduler
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import EncodeError, OperationalError

from celery_minsched import EmptyPool, InvalidDemand, MinSched, NoAvailableNode
from celery_minsched.consistency.checker import Checker

from ..support.fleet import ROOT, Fleet, make_app, wait_for
from ..support.server import Server, free_port
from ..support.work import start_work


@pytest.fixture(scope="module")
def fleet(_server: Server) -> Iterator[Fleet]:
    """Two nodes, shared by all tests of this module."""
    with _server.client() as client:
        client.flushall()
    fleet = Fleet(_server)
    for node_id in ("n1", "n2"):
        fleet.start(node_id, "-P", "threads", slots=3)
    fleet.wait_online("n1", "n2")
    yield fleet
    fleet.wait_idle()
    assert Checker(fleet.views).check() == []
    fleet.close()


@pytest.fixture
def client(_server: Server) -> Iterator[redis.Redis]:
    with _server.client() as client:
        yield client


def sig(fleet: Fleet, task: str, *args: Any, **options: Any) -> Any:
    demand = {"pool": "asr", **options.pop("minsched", {})}
    return signature(f"tests.support.app.{task}", args, app=fleet.app).set(
        minsched=demand, **options
    )


class TestCanvas:
    def test_a_chain_runs(self, fleet: Fleet) -> None:
        result = chain(sig(fleet, "add", 1, 2), sig(fleet, "add", 4), sig(fleet, "add", 8))()
        assert result.get(timeout=20) == 15
        assert fleet.job(result.id).status in ("running", "finished")  # type: ignore[union-attr]

    def test_a_group_runs_with_and_without_a_batch(self, fleet: Fleet) -> None:
        tasks = group(sig(fleet, "add", n, n) for n in range(12))
        assert tasks().get(timeout=20) == [2 * n for n in range(12)]
        with fleet.plugin.batch():
            result = tasks()
        assert result.get(timeout=20) == [2 * n for n in range(12)]

    def test_a_chord_runs(self, fleet: Fleet) -> None:
        header = [sig(fleet, "add", n) for n in range(8)]
        assert chord(header)(sig(fleet, "add")).get(timeout=20) == sum(range(8))

    def test_chunks_run(self, fleet: Fleet, client: redis.Redis) -> None:
        """Each chunk is a task ``celery.starmap``. A route defines the demand of this task."""
        app = make_app(fleet.server.url, minsched_routes={"celery.starmap": {"pool": "asr"}})

        @app.task(name="tests.support.app.add", shared=False)
        def task(*numbers: int) -> None: ...

        result = task.chunks([(n, 1) for n in range(6)], 2).apply_async()
        assert result.get(timeout=20) == [[1, 2], [3, 4], [5, 6]]
        assert fleet.job(result.results[0].id) is not None

    def test_tasks_of_celery_itself_run_in_the_pool_of_the_tasks_that_they_call(
        self, fleet: Fleet, tmp_path: Path
    ) -> None:
        """No plain worker runs in this test.

        Celery uses ``chord_unlock`` only with a backend that cannot count, such as files.
        """
        conf = {"result_backend": f"file://{tmp_path}", "result_chord_retry_interval": 0.2}
        node = Fleet(fleet.server, celery=conf)
        try:
            node.start_ready("unlocks", pool="unlock")
            demand = {"pool": "unlock"}
            app = make_app(fleet.server.url, **conf)

            @app.task(name="tests.support.app.add", minsched=demand, shared=False)
            def task(*numbers: int) -> None: ...

            result = chord([task.s(n) for n in range(3)])(task.s().set(minsched=demand))
            wait_for(lambda: result.state == "SUCCESS", "the chord's body")
            assert result.result == 3
            mapped = task.starmap([(n, 1) for n in range(3)]).apply_async()
            wait_for(lambda: mapped.state == "SUCCESS", "the starmap")
            assert mapped.result == [1, 2, 3]
            assert app.minsched.find_job(mapped.id).pool == "unlock"
        finally:
            node.close()

    def test_callbacks_and_errbacks_run(self, fleet: Fleet, client: redis.Redis) -> None:
        called = sig(fleet, "note", task_id="called-back", minsched={"session_id": "s"})
        sig(fleet, "add", 1).apply_async(link=called)
        wait_for(lambda: fleet.job("called-back") and fleet.job("called-back").ended_ts)
        errback = signature("tests.support.app.errback", app=fleet.app)
        failed = sig(fleet, "fails").apply_async(link_error=errback)
        wait_for(lambda: client.lrange("test:errback", 0, -1) == [f"{failed.id} ValueError"])

    def test_a_task_can_replace_itself(self, fleet: Fleet) -> None:
        assert sig(fleet, "replaced", 5).apply_async().get(timeout=20) == 105

    def test_a_delayed_retry_keeps_its_demand(self, fleet: Fleet) -> None:
        result = sig(fleet, "retries", 0.2, minsched={"session_id": "u1"}).apply_async()
        assert result.get(timeout=20)["demand"] == {"pool": "asr", "session_id": "u1"}

    def test_a_retry_keeps_its_priority(self, fleet: Fleet, client: redis.Redis) -> None:
        result = fleet.send("retries", priority=6)
        result.get(timeout=20)
        job = fleet.job(result.id)
        assert job is not None
        band = client.hget(f"scheduler:job:{job.job_id}", "band")
        assert band == str(fleet.plugin.scheduler.keys.priority_step(6))


class TestDemand:
    def test_each_key_of_a_demand_comes_from_the_nearest_source(
        self, fleet: Fleet, server_url: str
    ) -> None:
        routes = {"jobs.*": {"pool": "mt", "session_id": "routed", "affinity": "none"}}
        app = make_app(server_url, minsched_routes=routes)

        @app.task(name="jobs.one", minsched={"pool": "asr", "affinity": "prefer"})
        def task() -> None: ...

        demand = demand_of(app, task, minsched={"session_id": "called", "affinity": None})
        assert demand == {"pool": "asr", "session_id": "called"}
        demand = demand_of(app, task)
        assert demand == {"pool": "asr", "session_id": "routed", "affinity": "prefer"}

    def test_celery_routes_a_task_without_a_demand(self, fleet: Fleet, server_url: str) -> None:
        app = make_app(server_url, task_routes={"b": {"queue": "mine"}})
        with app.connection_for_write() as connection:
            for name, queue in (("a", "celery"), ("b", "mine")):
                app.send_task(name)
                message = connection.SimpleQueue(queue).get(timeout=60)
                message.ack()
                assert "minsched" not in message.headers

    def test_a_call_with_a_queue_takes_no_slot(self, fleet: Fleet, server_url: str) -> None:
        result = fleet.send("add", 1, queue="elsewhere")
        assert fleet.job(result.id) is None
        with fleet.app.connection_for_write() as connection:
            connection.SimpleQueue("elsewhere").get(timeout=60).ack()

    def test_an_invalid_demand_sends_no_message(self, fleet: Fleet, client: redis.Redis) -> None:
        seq = client.get("scheduler:job:id_seq")
        for demand, text in (
            ({"pol": "asr"}, "Did you mean pool"),
            ({"pool": 7.5}, "pool = 7.5"),
            ({"pool": "a/b"}, "'a/b'"),
            ({"pool": None, "src_lang": "zh"}, "give both or neither"),
            ({"when_full": "later"}, "'wait' or 'error'"),
            ({"capabilities": "gpu"}, "capabilities"),
        ):
            with pytest.raises(InvalidDemand, match=r".") as caught:
                fleet.send("add", 1, minsched=demand)
            assert text in str(caught.value)
        with pytest.raises(InvalidDemand, match="is not a dict"):
            fleet.app.send_task("tests.support.app.add", minsched="asr")
        assert client.get("scheduler:job:id_seq") == seq

    def test_with_when_full_error_a_pool_without_nodes_raises(self, fleet: Fleet) -> None:
        with pytest.raises(EmptyPool, match="--pool nowhere"):
            fleet.send("add", minsched={"pool": "nowhere", "when_full": "error"})

    def test_eager_tasks_need_no_redis(self, server_url: str) -> None:
        app = make_app("redis://127.0.0.1:1/0", task_always_eager=True)

        @app.task(minsched={"pool": "asr"})
        def twice(number: int) -> int:
            return 2 * number

        assert twice.apply_async((4,), minsched={"session_id": "u1"}).get() == 8
        assert group(twice.s(n) for n in range(3))().get() == [0, 2, 4]


def demand_of(app: Celery, task: Any, **options: Any) -> Any:
    """The demand that the router puts into the header of a call."""
    app.amqp.router.route(options, task.name, (), {}, task_type=task)
    return options["headers"]["minsched"]["demand"]


@pytest.fixture
def server_url(_server: Server) -> str:
    return _server.url


class TestVisibility:
    def test_the_task_and_the_caller_see_the_node(self, fleet: Fleet) -> None:
        result = fleet.send("where_am_i")
        place = result.get(timeout=20)
        job = fleet.job(result.id)
        assert job is not None
        assert place["minsched"]["node_id"] == job.node_id == place["hostname"].split("@")[1]
        assert place["minsched"]["job_id"] == job.job_id

    def test_inspect_shows_each_node_with_its_own_queue(self, fleet: Fleet) -> None:
        queues = fleet.app.control.inspect(["celery@n1", "celery@n2"], timeout=60).active_queues()
        names = {
            worker: [(queue["name"], queue["exchange"]["name"], queue["routing_key"])]
            for worker, [queue] in queues.items()
        }
        assert names == {f"celery@{n}": [(f"minsched.node.{n}",) * 3] for n in ("n1", "n2")}

    def test_flower_shows_nodes_as_workers(self, fleet: Fleet) -> None:
        port = free_port()
        flower = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.support.app", "flower", f"--port={port}"],
            cwd=ROOT,
            env={**fleet.environment, "FLOWER_UNAUTHENTICATED_API": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def workers() -> Any:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/workers") as answer:
                    return json.load(answer)
            except OSError:
                return None

        try:
            wait_for(lambda: set(workers() or ()) >= {"celery@n1", "celery@n2"})
        finally:
            flower.terminate()
            flower.wait(60)


def test_beat_sends_through_the_scheduler(fleet: Fleet) -> None:
    fleet.app.conf.beat_schedule = {
        "often": {
            "task": "tests.support.app.add",
            "schedule": 1.0,
            "args": (2, 3),
            "options": {"minsched": {"pool": "asr"}},
        }
    }
    beat = BeatScheduler(fleet.app)
    result = beat.apply_async(beat.schedule["often"], advance=False)
    assert result.get(timeout=20) == 5
    assert fleet.job(result.id) is not None


class TestFailure:
    def test_a_message_that_cannot_be_encoded_keeps_no_slot(self, fleet: Fleet) -> None:
        with pytest.raises(EncodeError):
            fleet.app.send_task("tests.support.app.add", (object(),), minsched={"pool": "asr"})
        fleet.wait_idle()

    def test_an_unreachable_redis_raises_celery_s_error(self, no_pauses: None) -> None:
        app = make_app(f"redis://127.0.0.1:{free_port()}/0", result_backend="disabled://")
        with pytest.raises(OperationalError):
            app.send_task("x", minsched={"pool": "asr"})
        with pytest.raises(OperationalError), app.minsched.batch():
            app.send_task("x", minsched={"pool": "asr"})

    def test_a_batch_raises_celery_s_error_if_redis_dies_before_the_flush(
        self, no_pauses: None
    ) -> None:
        server = Server()
        app = make_app(server.url, result_backend="disabled://")

        def cut(**_: Any) -> None:
            """Runs between the publish into the batch and the flush of the batch."""
            server.stop(signal.SIGKILL)

        signals.after_task_publish.connect(cut, sender="cut")
        try:
            with pytest.raises(OperationalError), app.minsched.batch():
                app.send_task("cut", minsched={"pool": "asr"})
        finally:
            signals.after_task_publish.disconnect(cut, sender="cut")
            server.close()

    def test_an_unreachable_broker_frees_the_slot(
        self, fleet: Fleet, server_url: str, client: redis.Redis, no_pauses: None
    ) -> None:
        app = make_app(
            f"redis://127.0.0.1:{free_port()}/0",
            result_backend="disabled://",
            minsched_database_url=server_url,
            minsched_when_full="error",
        )
        with pytest.raises(OperationalError):
            app.send_task("tests.support.app.add", task_id="unsent", minsched={"pool": "asr"})
        job = fleet.job("unsent")
        assert job is not None
        assert (job.status, job.reason) == ("lost", "its message could not be sent")
        fleet.wait_idle()

    def test_with_when_full_error_full_nodes_raise_no_available_node(self, fleet: Fleet) -> None:
        work = start_work(fleet, 6)
        with pytest.raises(NoAvailableNode):
            fleet.send("add", minsched={"when_full": "error"})
        with pytest.raises(NoAvailableNode), fleet.plugin.batch():
            fleet.send("add", 1, minsched={"when_full": "error"})
        work.let_end()
        fleet.wait_idle()


def test_dispatches_add_no_queue_to_the_application(fleet: Fleet) -> None:
    fleet.send("add", 1).get(timeout=20)
    before = len(fleet.app.amqp.queues)
    results = fleet.plugin.dispatch_many(sig(fleet, "add", n) for n in range(50))
    assert [result.get(timeout=20) for result in results] == list(range(50))
    assert len(fleet.app.amqp.queues) == before


def test_batches_of_several_threads_do_not_mix(fleet: Fleet) -> None:
    numbers: dict[int, list[int]] = {}

    def send(number: int) -> None:
        results = fleet.plugin.dispatch_many(sig(fleet, "add", number, n) for n in range(10))
        numbers[number] = [result.get(timeout=30) for result in results]

    threads = [Thread(target=send, args=(number,)) for number in range(0, 400, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == {number: [number + n for n in range(10)] for number in range(0, 400, 100)}


def test_a_custom_amqp_class_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="Derive it from"):
        MinSched(Celery("x", amqp=f"{__name__}:_Foreign"))


class _Foreign:
    pass
