"""``celery minsched release``: what waits goes to ordinary queues, and no key of ours is left."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError
from kombu import Exchange, Queue

from celery_minsched import CompleteTaskRequest
from celery_minsched.consistency.checker import Checker
from celery_minsched.plugin.request_place import empty_place

from ..support.all_keys import scheduler_keys
from ..support.commands import run_with
from ..support.desk import Desk, silence
from ..support.fleet import Fleet, make_app, wait_for
from ..support.server import Server


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = make_app(server.url)
    yield app
    app.close()


def send(app: Celery, task_id: str, task: str = "mark", **options: Any) -> Any:
    demand = {"pool": "asr", **options.pop("minsched", {})}
    return app.send_task(
        f"tests.support.app.{task}", ("x", task_id), task_id=task_id, minsched=demand, **options
    )


def released(app: Celery, code: int = 0) -> dict[str, Any]:
    answer = run_with(app, "release", "--json")
    assert answer.exit_code == code, answer.output
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def ids(client: redis.Redis, place: str = "celery") -> list[str]:
    """The tasks in a list, the next to be taken first."""
    return [json.loads(raw)["headers"]["id"] for raw in client.lrange(place, 0, -1)][::-1]


def drained(desk: Desk) -> None:
    """A node that left in good order."""
    desk.node("n1", 1, online=False)
    desk.service.drain_node("n1")
    desk.beat("n1", online=False, jobs=[])


def finish(desk: Desk, task_id: str) -> None:
    """The node takes the task from its queue and runs it."""
    job = desk.views.job_of_task(task_id)
    assert job is not None
    desk.service.redis.delete(desk.service.keys("node_queue", job.node_id))
    desk.service.complete_task(
        CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
    )


def test_what_waits_goes_back_in_order_and_nothing_is_left(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    drained(desk)
    for n in range(250):
        send(app, f"t{n}", priority=9 * (n % 2), expires=3600)
    when = datetime.now(UTC) + timedelta(hours=1)
    send(app, "later", eta=when)
    assert released(app)["returned"] == {"celery": 251}
    assert ids(client) == [f"t{n}" for n in range(0, 250, 2)] + ["later"]
    assert ids(client, "celery\x06\x169") == [f"t{n}" for n in range(1, 250, 2)]
    assert scheduler_keys(client) == []


def test_a_message_is_as_celery_alone_would_send_it(
    app: Celery, server: Server, desk: Desk, client: redis.Redis
) -> None:
    send(app, "t1", minsched={"session_id": "u1"})
    plain = Celery("plain", broker=server.url, set_as_current=False)
    plain.send_task("tests.support.app.mark", ("x", "t1"), task_id="t1")
    released(app)
    back, sent = (json.loads(raw) for raw in client.lrange("celery", 0, -1))
    assert back["properties"]["delivery_info"] == sent["properties"]["delivery_info"]
    assert back["body"] == sent["body"]
    # What the task asked for is left, without which it could not be adopted again; and no place.
    asked = {"demand": {"pool": "asr", "session_id": "u1"}}
    assert back["headers"].pop("minsched") == empty_place() | asked
    assert back["headers"].keys() == sent["headers"].keys()


def test_a_task_goes_to_its_own_queue_by_celerys_routes(
    server: Server, client: redis.Redis
) -> None:
    speech = Queue("speech", Exchange("audio", type="topic"), routing_key="speech.all")
    app = make_app(
        server.url,
        task_default_queue="usual",
        task_queues=[speech, Queue("usual")],
        task_routes={"tests.support.app.mark": {"queue": "speech"}},
    )
    send(app, "t1")
    send(app, "t2", "other")
    assert released(app)["returned"] == {"speech": 1, "usual": 1}
    [raw] = client.lrange("speech", 0, -1)
    info = json.loads(raw)["properties"]["delivery_info"]
    assert info == {"exchange": "audio", "routing_key": "speech.all"}
    assert ids(client, "usual") == ["t2"]


def test_it_is_refused_while_a_node_takes_jobs(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    send(app, "t1")
    before = sorted(client.scan_iter())
    answer = run_with(app, "release")
    assert answer.exit_code == 2
    assert "these nodes take jobs: n1" in answer.stderr
    assert "minsched drain NODE" in answer.stderr
    assert sorted(client.scan_iter()) == before


def test_while_a_drained_node_is_there_the_keys_stay(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    send(app, "runs")
    send(app, "t1")
    desk.service.drain_node("n1")
    told = released(app, code=1)
    assert told["returned"] == {"celery": 1}
    assert told["left"] == [
        "These nodes are still there: n1. Wait until they have no jobs, and stop them."
    ]
    assert ids(client, "minsched.node.n1") == ["runs"]  # it will finish what it has
    assert Checker(desk.views).check() == []
    finish(desk, "runs")
    desk.beat("n1", online=False, jobs=[])
    assert released(app)["left"] == []
    assert scheduler_keys(client) == []
    assert "Deleted 0 keys. No key of the scheduler is left." in run_with(app, "release").output


def test_the_jobs_of_a_node_that_died_are_not_forgotten(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    send(app, "t1")
    silence(desk, "n1", 60_000)
    [told] = released(app, code=1)["left"]
    assert told.startswith("No node has rescued the jobs of n1 yet. Start a node")
    assert ids(client, "minsched.node.n1") == ["t1"]
    finish(desk, "t1")


def test_a_caller_who_is_yet_to_be_told_that_his_job_is_lost_is_not_forgotten(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    job_id = desk.park(task_id="t1")
    [place] = client.scan_iter("minsched.job.*")
    client.delete(place)
    desk.node("n1", 1)  # it finds that the message is gone
    assert desk.status(job_id) == "lost"
    desk.beat("n1", online=False, jobs=[])
    [told] = released(app, code=1)["left"]
    assert told.startswith("Jobs are lost, and no node has told their callers yet")


def test_a_task_that_was_revoked_does_not_run(app: Celery, desk: Desk, client: redis.Redis) -> None:
    waits = send(app, "t1")
    drained(desk)
    assert desk.service.revoke_tasks(["t1"], "n1")  # which is away before it has told of it
    assert released(app)["revoked"] == 1
    with pytest.raises(TaskRevokedError):
        waits.get(timeout=1)
    assert client.llen("celery") == 0
    assert scheduler_keys(client) == []


def test_what_somebody_sent_to_a_node_itself_goes_back_too(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    app.send_task("tests.support.app.mark", ("x", 1), task_id="t1", queue="minsched.node.n1")
    assert released(app)["returned"] == {"celery": 1}
    assert scheduler_keys(client) == []
    assert not client.exists("_kombu.binding.minsched.node.n1")


def test_what_is_no_task_is_left_with_what_to_do(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    send(app, "t1")
    client.lpush("minsched.node.n1", "by hand")
    answer = run_with(app, "release")
    assert answer.exit_code == 1
    said = " ".join(answer.output.split())
    assert "Returned 1 message to queue celery." in said
    assert "messages that are no task's: minsched.node.n1. Read them with LRANGE" in said
    assert client.lrange("minsched.node.n1", 0, -1) == ["by hand"]
    client.delete("minsched.node.n1")
    released(app)


def test_other_keys_are_left_alone(app: Celery, desk: Desk, client: redis.Redis) -> None:
    drained(desk)
    send(app, "t1")
    others = {"scheduler:leader": "x", "minsched": "y", "application": "z"}
    client.mset(others)
    released(app)
    left = {key: client.get(key) for key in client.scan_iter() if client.type(key) == "string"}
    assert left == others


def test_broken_off_it_is_run_again(app: Celery, desk: Desk, client: redis.Redis) -> None:
    """As it deletes the keys, and an application sends just then."""
    from celery_minsched.migration.release import Releaser

    drained(desk)
    send(app, "t1")
    releaser = Releaser(app.minsched)
    unlink = releaser._redis.unlink
    calls = 0

    def unlink_and_fail(*keys: str) -> int:
        nonlocal calls
        calls += 1
        if calls > 0:
            unlink(*keys[: len(keys) // 2])
            raise redis.ConnectionError("cut off")
        return 0

    releaser._redis.unlink = unlink_and_fail
    with pytest.raises(redis.ConnectionError):
        releaser.release()
    again = make_app(app.conf.broker_url)
    again.send_task("tests.support.app.mark", ("x", 2), task_id="t2", minsched={"pool": "asr"})
    assert released(again)["left"] == []
    assert ids(client) == ["t1", "t2"]
    assert scheduler_keys(client) == []


def test_real_nodes_are_wound_down(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("n1", "-P", "threads", slots=1)
    held = fleet.send("hold", "it")
    wait_for(lambda: client.exists("test:began:it"))
    waits = fleet.send("note", "later")
    assert run_with(fleet.app, "release").exit_code == 2
    assert run_with(fleet.app, "drain", "n1").exit_code == 0
    assert released(fleet.app, code=1)["returned"] == {"celery": 1}
    client.lpush("test:release:it", "now")
    held.get(timeout=20)
    fleet.stop("n1", signal.SIGTERM)
    assert released(fleet.app)["left"] == []
    assert scheduler_keys(client) == []
    assert ids(client) == [waits.id]
