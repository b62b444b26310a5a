"""``dispatch_many`` sends the same messages as ``apply_async``."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery, Signature, group, signals
from celery.canvas import StampingVisitor

from celery_minsched import Backlogged, NoAvailableNode, RegisterNodeRequest

from ..support.fleet import make_app, wait_for
from ..support.proxy import Proxy
from ..support.sent_messages import numbers, sent
from ..support.server import Server


@pytest.fixture
def app(server: Server, client: redis.Redis) -> Iterator[Celery]:
    app = make_app(server.url)

    @app.task(name="add", minsched={"pool": "asr"}, shared=False)
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="typeless", minsched={"pool": "asr"}, typing=False, priority=3, shared=False)
    def typeless(*args: Any) -> None: ...

    @app.task(name="plain", shared=False)
    def plain(x: int) -> None: ...

    with app:
        yield app


class Stamp(StampingVisitor):
    def on_signature(self, sig: Signature, **headers: Any) -> dict[str, Any]:
        return {"stamp": "mine"}


def stamped(signature: Signature) -> Signature:
    signature.stamp(visitor=Stamp())
    return signature


def many(app: Celery) -> list[Signature]:
    """Similar signatures, and signatures that differ in each option that Celery knows."""
    add, typeless = app.tasks["add"], app.tasks["typeless"]
    return [
        *(add.s(number, y=number * 2) for number in range(4)),
        *(typeless.s("a" * 2000, {"deep": [[[[1]]]]}, number) for number in range(3)),
        *(typeless.s(number, "100 %(body)s", text="%s") for number in range(2)),
        *(add.s(number).set(minsched={"session_id": "u1"}, priority=9) for number in range(2)),
        *(add.s(number).set(ignore_result=True) for number in range(2)),
        *(add.s(number).set(countdown=1000) for number in range(2)),
        *(add.s(number).set(expires=1000) for number in range(2)),
        *(add.s(number).set(link=typeless.s("done")) for number in range(2)),
        *(add.s(number).set(compression="zlib", serializer="json") for number in range(2)),
        *(stamped(add.s(number)) for number in range(2)),
        *(app.tasks["plain"].s(number) for number in range(2)),
        app.signature("add", args=(7,)),
        app.signature("not.known.here", args=(8,)).set(minsched={"pool": "asr"}),
        add.s(9) | add.s(1),
    ]


def test_the_messages_equal_the_messages_of_apply_async(app: Celery, client: redis.Redis) -> None:
    for signature in many(app):
        if "compression" not in signature.options:
            signature.apply_async()
    expected = sent(client)
    results = app.minsched.dispatch_many(
        [signature for signature in many(app) if "compression" not in signature.options]
    )
    assert sent(client) == expected
    assert len(expected) == len(results) == len(many(app)) - 2
    assert len({result.id for result in results}) == len(results)


def test_each_result_belongs_to_its_own_task(app: Celery, client: redis.Redis) -> None:
    add = app.tasks["add"]
    results = app.minsched.dispatch_many(
        [add.s(number).set(ignore_result=number > 3) for number in range(7)]
    )
    for number, result in enumerate(results):
        job = app.minsched.find_job(result.id)
        assert job == app.minsched.where(result.id)  # the earlier name
        assert job is not None
        [raw] = client.lrange(f"minsched.job.{job.job_id}", 0, -1)
        message = json.loads(raw)
        assert message["headers"]["minsched"]["job_id"] == job.job_id
        assert json.loads(base64.b64decode(message["body"]))[0] == [number]
        assert bool(result.ignored) == (number > 3)
        assert type(result) is type(add.AsyncResult("x"))


def test_before_task_publish_is_sent_for_each_task(app: Celery) -> None:
    published: list[Any] = []

    def on_publish(body: Any, headers: dict[str, Any], **_: Any) -> None:
        published.append(body[0])
        headers["mine"] = len(published)

    signals.before_task_publish.connect(on_publish, sender="add")
    try:
        app.minsched.dispatch_many([app.tasks["add"].s(number) for number in range(4)])
    finally:
        signals.before_task_publish.disconnect(on_publish, sender="add")
    assert published == [(0,), (1,), (2,), (3,)]


def test_wrong_arguments_raise_before_the_batch_sends_a_message(
    app: Celery, client: redis.Redis
) -> None:
    add = app.tasks["add"]
    with pytest.raises(TypeError, match="unexpected"):
        app.minsched.dispatch_many([add.s(1), add.s(2), add.s(3, unexpected=4)])
    assert sent(client) == []


def test_the_first_refused_dispatch_ends_a_batch(app: Celery, client: redis.Redis) -> None:
    app.minsched.scheduler.register_node(
        RegisterNodeRequest(node_id="n1", max_jobs=3, pools_json='["asr"]')
    )
    add = app.tasks["add"]
    with pytest.raises(NoAvailableNode):
        app.minsched.dispatch_many(
            [add.s(number).set(minsched={"when_full": "error"}) for number in range(9)]
        )
    assert client.llen("minsched.node.n1") == 3


@pytest.mark.parametrize("at", [50, 150, 299])
def test_a_failure_between_two_chunks_loses_and_repeats_no_task(
    app: Celery, client: redis.Redis, cut_connections: Callable[[], None], at: int
) -> None:
    """Redis processes a chunk of 100 while the client builds the next one.

    In that time the connections break, or Redis forgets the scripts.
    """

    def signatures(fail: Any) -> Iterator[Signature]:
        for number in range(300):
            if number == at:
                fail()
            yield app.tasks["add"].s(number)

    for fail in (cut_connections, client.script_flush):
        results = app.minsched.dispatch_many(signatures(fail))
        assert len({result.id for result in results}) == 300
        assert numbers(client) == list(range(300))


def test_a_lost_reply_of_a_chunk_is_requested_again(server: Server, client: redis.Redis) -> None:
    proxy = Proxy(server.port)
    with make_app(proxy.url, task_ignore_result=True) as app:
        app.conf.minsched_routes = {"add": {"pool": "asr"}}
        add = app.signature("add")

        def signatures() -> Iterator[Signature]:
            for number in range(200):
                if number == 0:
                    proxy.delay = 0.3
                if number == 100:  # Redis has run the first chunk. Its reply is delayed.
                    wait_for(lambda: client.get("scheduler:job:id_seq") == "101")
                    proxy.cut()
                    proxy.mend()
                    proxy.delay = 0.0
                yield add.clone((number,))

        app.send_task("add", (-1,))  # opens the connections
        results = app.minsched.dispatch_many(signatures())
    assert numbers(client) == list(range(-1, 200))
    assert len({result.id for result in results}) == 200
    proxy.close()


def test_a_wrong_call_does_not_undo_the_chunks_before_it(app: Celery, client: redis.Redis) -> None:
    add = app.tasks["add"]
    wrong = [add.s(number) for number in range(250)]
    wrong[160] = add.s(160, unexpected=1)
    with pytest.raises(TypeError, match="unexpected"):
        app.minsched.dispatch_many(wrong)
    assert numbers(client) == list(range(100))


def test_a_refused_chunk_raises_at_the_caller(app: Celery, client: redis.Redis) -> None:
    app.conf.minsched_max_waiting = 130
    add = app.tasks["add"]
    with pytest.raises(Backlogged):
        app.minsched.dispatch_many(add.s(number) for number in range(1000))
    assert numbers(client) == list(range(130))
    with pytest.raises(Backlogged), app.minsched.batch():
        group(add.s(number) for number in range(1000)).apply_async()
    assert numbers(client) == list(range(130))
