"""Each of Celery's options of a call works with a demand, or raises an error that names it."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import wraps
from itertools import count
from types import MethodType
from typing import Any

import pytest
import redis
from celery import Celery, signals
from celery.app.task import Task
from celery.exceptions import ImproperlyConfigured
from kombu import Connection

from celery_minsched import (
    DispatchRequest,
    InvalidDemand,
    MinSched,
    RegisterNodeRequest,
    still_mine,
)
from celery_minsched.plugin.plugin import plugin_of
from celery_minsched.plugin.publish import SchedulingAMQP
from celery_minsched.plugin.request_place import empty_place

from ..support.desk import Desk
from ..support.server import Server

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make(url: str, cls: type[Celery] = Celery, broker: str | None = None, **conf: Any) -> Celery:
    """An application with a task with a demand and a task without one."""
    app = cls("p", broker=broker or url, backend=url, set_as_current=False)
    app.conf.update(task_publish_retry_policy={"max_retries": 1}, **conf)
    MinSched(app)

    @app.task(name="demanding", minsched={"pool": "asr"}, bind=True, shared=False)
    def demanding(self: Any, *args: Any) -> dict[str, Any]:
        return dict(self.request.minsched)

    @app.task(name="plain", bind=True, shared=False)
    def plain(self: Any, *args: Any) -> dict[str, Any]:
        return dict(self.request.minsched)

    return app


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = make(server.url)
    yield app
    app.close()


def messages(client: redis.Redis) -> dict[str, dict[str, Any]]:
    """All sent messages, by task id."""
    return {
        (message := json.loads(raw))["properties"]["correlation_id"]: message
        for pattern in ("minsched.*", "celery*")
        for key in client.keys(pattern)
        if client.type(key) == "list"
        for raw in client.lrange(key, 0, -1)
    }


@pytest.mark.parametrize("task", ["demanding", "plain"])
def test_the_options_of_a_route_apply_to_a_task_with_a_demand(
    server: Server, client: redis.Redis, task: str
) -> None:
    route = {"priority": 9, "headers": {"team": "a"}, "queue": "celery", "compression": "zlib"}
    app = make(server.url, task_routes=({"none.*": {"priority": 3}}, {task: route}))
    routed = app.tasks[task].delay()
    called = app.tasks[task].apply_async(priority=6, headers={"by": "caller"})
    sent = messages(client)
    for result, priority, headers in ((routed, 9, {"team": "a"}), (called, 6, {"by": "caller"})):
        message = sent[result.id]
        assert message["properties"]["priority"] == priority
        assert message["headers"]["compression"] == "application/x-gzip"
        assert message["headers"].keys() & {"team", "by"} == headers.keys()
    app.close()


@pytest.mark.parametrize("option", ["connection", "producer"])
def test_a_connection_to_another_broker_is_refused(
    app: Celery, server: Server, option: str
) -> None:
    def send(url: str, task: str) -> Any:
        with Connection(url) as connection, app.amqp.Producer(connection) as producer:
            return app.tasks[task].apply_async(
                **{option: connection if option == "connection" else producer}
            )

    other = server.url.replace("/0", "/5")
    with pytest.raises(InvalidDemand, match="/5 is not the application's broker"):
        send(other, "demanding")
    with server.client(db=5) as client:
        assert client.keys("*") == []
        send(other, "plain")
        assert client.llen("celery") == 1
        client.flushdb()
    assert app.minsched.find_job(send(server.url, "demanding").id).status == "waiting"
    with app.producer_pool.acquire() as pooled:
        assert app.tasks["demanding"].apply_async(producer=pooled)


@pytest.mark.parametrize("source", ["call", "handler"])
def test_with_another_broker_the_header_has_the_priority(server: Server, source: str) -> None:
    """A node reads one list of its queue. kombu has a list for each priority step."""
    own = {"minsched_database_url": server.url, "minsched_when_full": "error"}
    app = make(server.url, broker=server.url.replace("/0", "/5"), **own)
    Desk(app.minsched.scheduler).node("n1", 1)

    def change(properties: dict[str, Any], **_: Any) -> None:
        properties["priority"] = "6"

    if source == "handler":
        signals.before_task_publish.connect(change)
    try:
        app.tasks["demanding"].apply_async(**({"priority": "6"} if source == "call" else {}))
    finally:
        signals.before_task_publish.disconnect(change)
    with server.client(db=5) as client:
        message = json.loads(client.rpop("minsched.node.n1"))
    assert message["headers"]["minsched"]["priority"] == "6"
    assert message["properties"]["priority"] == 0
    app.close()


@pytest.mark.parametrize("broker", ["memory://", "amqp://127.0.0.1:1//"])
def test_the_broker_is_checked_at_the_first_task_with_a_demand(server: Server, broker: str) -> None:
    app = make(server.url, broker=broker, task_always_eager=True)
    for task in ("demanding", "plain"):
        assert app.tasks[task].delay(1).get() == empty_place()
    if broker == "memory://":
        app = make(server.url, broker=broker)
        app.tasks["plain"].delay()
        with pytest.raises(ImproperlyConfigured, match="in one Redis database"):
            app.tasks["demanding"].delay()


def test_task_protocol_1_is_refused(server: Server) -> None:
    app = make(server.url, task_protocol=1)
    with pytest.raises(ImproperlyConfigured, match="Set task_protocol = 2"):
        _ = app.amqp


class Numbering(Celery):
    """Adds a header with a number to each message."""

    def send_task(self, *args: Any, headers: Any = None, **options: Any) -> Any:
        headers = {**(headers or {}), "number": next(self.numbers)}
        return super().send_task(*args, headers=headers, **options)


def numbering(function: Any, numbers: Iterator[int]) -> Any:
    """Wrap a function, as an instrumentation does."""

    @wraps(function)
    def wrapped(*args: Any, headers: Any = None, **options: Any) -> Any:
        return function(*args, headers={**(headers or {}), "number": next(numbers)}, **options)

    return wrapped


@pytest.mark.parametrize(
    "way", ["subclass", "application", "class", "task", "tasks", "router", "nothing"]
)
def test_a_batch_calls_an_overridden_apply_async(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    numbers = count()

    def route(name: str, args: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return {"headers": {"number": args[0]}}

    routes = {"task_routes": route} if way == "router" else {}
    app = make(server.url, Numbering if way == "subclass" else Celery, **routes)
    app.numbers = numbers
    task = app.tasks["demanding"]
    if way == "application":
        monkeypatch.setattr(app, "send_task", numbering(app.send_task, numbers))
    elif way == "class":
        monkeypatch.setattr(Celery, "send_task", numbering(Celery.send_task, numbers))
    elif way == "task":
        method = MethodType(numbering(type(task).apply_async, numbers), task)
        monkeypatch.setattr(task, "apply_async", method)
    elif way == "tasks":
        monkeypatch.setattr(Task, "apply_async", numbering(Task.apply_async, numbers))
    results = app.minsched.dispatch_many(task.s(number) for number in range(4))
    sent = messages(client)
    expected = [None] * 4 if way == "nothing" else list(range(4))
    assert [sent[result.id]["headers"].get("number") for result in results] == expected
    app.close()


def test_a_pickled_application_dispatches_before_and_after_it_gets_a_plugin(server: Server) -> None:
    app = make(server.url)
    copy = pickle.loads(pickle.dumps(app))
    for _ in range(2):
        assert isinstance(copy.amqp, SchedulingAMQP)
        result = copy.send_task("plain", (1,), minsched={"pool": "asr"})
        job = app.minsched.find_job(result.id)
        assert job
        assert job.status == "waiting"
        plugin_of(copy)


class TestValues:
    """Task ids and times work as in plain Celery, or raise :class:`InvalidDemand`."""

    def test_a_task_id_may_be_a_uuid(self, app: Celery, client: redis.Redis) -> None:
        task_id = uuid.uuid4()
        result = app.tasks["demanding"].apply_async(task_id=task_id)
        assert app.minsched.find_job(task_id).job_id == app.minsched.find_job(str(result.id)).job_id
        assert client.exists(f"scheduler:task:{task_id}")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"task_id": "x" * 300}, "task_id = .*at most 255"),
            ({"task_id": "a\nb"}, "task_id = .*unprintable"),
            ({"eta": "tomorrow"}, "eta: 'tomorrow' is not an ISO 8601 time"),
        ],
    )
    def test_an_invalid_task_id_or_time_is_refused(
        self, app: Celery, client: redis.Redis, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidDemand, match=message):
            app.tasks["demanding"].apply_async(**options)
        assert client.keys("scheduler:job:*") == []

    @pytest.mark.parametrize("eta", [datetime(1969, 1, 1), datetime(1, 1, 1), EPOCH])
    def test_a_time_before_1970_is_in_the_past(
        self, app: Celery, client: redis.Redis, eta: datetime
    ) -> None:
        desk = Desk(app.minsched.scheduler)
        desk.node("n1", 1)
        result = app.tasks["demanding"].apply_async(eta=eta)
        assert app.minsched.find_job(result.id).status == "dispatched"
        late = app.tasks["demanding"].apply_async(expires=datetime(1969, 1, 1))
        desk.beat("n1")
        assert app.minsched.find_job(late.id).reason == "expired"

    @pytest.mark.parametrize("priority", ["6", "high", 6.0])
    def test_every_priority_that_kombu_accepts_is_accepted(
        self, app: Celery, priority: object
    ) -> None:
        assert app.tasks["demanding"].apply_async(priority=priority)


class TestPlace:
    """Every request has ``self.request.minsched`` with the same keys."""

    def test_a_task_that_the_scheduler_did_not_place_has_an_empty_place(self, app: Celery) -> None:
        for task in (app.tasks["demanding"], app.tasks["plain"]):
            assert task() == task.apply().get() == empty_place()
            assert task.apply(headers={"a": 1}).get() == empty_place()

    def test_the_place_has_no_other_effect_on_a_request(self, app: Celery) -> None:
        @app.task(bind=True, shared=False)
        def looks(self: Any) -> Any:
            self.request.minsched["job_id"] = "x:1"  # a copy
            unset = getattr(self.request, "unset", "none")
            return self.request.minsched["job_id"], unset, "minsched" in vars(self.request)

        assert looks.apply().get() == ("", "none", False)
        assert still_mine()

    def test_the_place_has_the_same_keys_as_on_a_node(self, app: Celery) -> None:
        scheduler = app.minsched.scheduler
        node = RegisterNodeRequest(node_id="n1", max_jobs=1, pools_json='["asr"]')
        scheduler.register_node(node)
        place = scheduler.dispatch_task(DispatchRequest(pool="asr"))
        _, claim_values = scheduler.claim_job(place.job_id, "n1")
        del claim_values["term"]  # the node does not pass it on
        publisher_keys = {"demand", "job_id", "node_id"}
        assert empty_place().keys() == {*publisher_keys, "claim", *claim_values}
