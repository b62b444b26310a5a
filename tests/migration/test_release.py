"""``celery minsched release`` returns waiting messages to ordinary queues and deletes all keys."""

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


def release(app: Celery, code: int = 0) -> dict[str, Any]:
    """Run the command and check its exit code. Returns its JSON output."""
    answer = run_with(app, "release", "--json")
    assert answer.exit_code == code, answer.output
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def ids(client: redis.Redis, queue: str = "celery") -> list[str]:
    """The ids of the tasks in a queue. A worker takes the first task next."""
    return [json.loads(raw)["headers"]["id"] for raw in client.lrange(queue, 0, -1)][::-1]


def add_left_node(desk: Desk) -> None:
    """Register a node that was add_left_node and then left."""
    desk.node("n1", 1, online=False)
    desk.service.drain_node("n1")
    desk.beat("n1", online=False, jobs=[])


def finish(desk: Desk, task_id: str) -> None:
    """Take the task from its node's queue and complete its job."""
    job = desk.views.job_of_task(task_id)
    assert job is not None
    desk.service.redis.delete(desk.service.keys("node_queue", job.node_id))
    desk.service.complete_task(
        CompleteTaskRequest(job_id=job.job_id, node_id=job.node_id, status="finished")
    )


def test_release_returns_messages_in_their_order_and_deletes_all_keys(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    add_left_node(desk)
    for n in range(250):
        send(app, f"t{n}", priority=9 * (n % 2), expires=3600)
    when = datetime.now(UTC) + timedelta(hours=1)
    send(app, "later", eta=when)
    assert release(app)["returned"] == {"celery": 251}
    assert ids(client) == [f"t{n}" for n in range(0, 250, 2)] + ["later"]
    assert ids(client, "celery\x06\x169") == [f"t{n}" for n in range(1, 250, 2)]
    assert scheduler_keys(client) == []


def test_a_released_message_equals_a_message_of_plain_celery(
    app: Celery, server: Server, desk: Desk, client: redis.Redis
) -> None:
    send(app, "t1", minsched={"session_id": "u1"})
    plain = Celery("plain", broker=server.url, set_as_current=False)
    plain.send_task("tests.support.app.mark", ("x", "t1"), task_id="t1")
    release(app)
    back, sent = (json.loads(raw) for raw in client.lrange("celery", 0, -1))
    assert back["properties"]["delivery_info"] == sent["properties"]["delivery_info"]
    assert back["body"] == sent["body"]
    # The header keeps the demand, so that the message can be adopted again.
    demand = {"demand": {"pool": "asr", "session_id": "u1"}}
    assert back["headers"].pop("minsched") == empty_place() | demand
    assert back["headers"].keys() == sent["headers"].keys()


def test_celery_s_routes_choose_the_queue_of_a_released_message(
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
    assert release(app)["returned"] == {"speech": 1, "usual": 1}
    [raw] = client.lrange("speech", 0, -1)
    info = json.loads(raw)["properties"]["delivery_info"]
    assert info == {"exchange": "audio", "routing_key": "speech.all"}
    assert ids(client, "usual") == ["t2"]


def test_release_is_refused_while_a_node_takes_jobs(
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


def test_the_keys_stay_while_a_drained_node_is_online(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    send(app, "runs")
    send(app, "t1")
    desk.service.drain_node("n1")
    report = release(app, code=1)
    assert report["returned"] == {"celery": 1}
    assert report["left"] == [
        "These nodes are still there: n1. Wait until they have no jobs, and stop them."
    ]
    assert ids(client, "minsched.node.n1") == ["runs"]  # the node still runs its own jobs
    assert Checker(desk.views).check() == []
    finish(desk, "runs")
    desk.beat("n1", online=False, jobs=[])
    assert release(app)["left"] == []
    assert scheduler_keys(client) == []
    assert "Deleted 0 keys. No key of the scheduler is left." in run_with(app, "release").output


def test_release_keeps_the_jobs_of_a_dead_node(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 1)
    send(app, "t1")
    silence(desk, "n1", 60_000)
    [sentence] = release(app, code=1)["left"]
    assert sentence.startswith("No node has rescued the jobs of n1 yet. Start a node")
    assert ids(client, "minsched.node.n1") == ["t1"]
    finish(desk, "t1")


def test_release_keeps_the_lost_jobs_that_are_not_reported(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    job_id = desk.park(task_id="t1")
    [queue] = client.scan_iter("minsched.job.*")
    client.delete(queue)
    desk.node("n1", 1)  # the registration places the job and finds no message
    assert desk.status(job_id) == "lost"
    desk.beat("n1", online=False, jobs=[])
    [sentence] = release(app, code=1)["left"]
    assert sentence.startswith("Jobs are lost, and no node has reported them to their callers yet")


def test_release_discards_a_revoked_task(app: Celery, desk: Desk, client: redis.Redis) -> None:
    result = send(app, "t1")
    add_left_node(desk)
    assert desk.service.revoke_tasks(["t1"], "n1")  # n1 left before it notified the caller
    assert release(app)["revoked"] == 1
    with pytest.raises(TaskRevokedError):
        result.get(timeout=1)
    assert client.llen("celery") == 0
    assert scheduler_keys(client) == []


def test_release_returns_a_message_without_a_job(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    app.send_task("tests.support.app.mark", ("x", 1), task_id="t1", queue="minsched.node.n1")
    assert release(app)["returned"] == {"celery": 1}
    assert scheduler_keys(client) == []
    assert not client.exists("_kombu.binding.minsched.node.n1")


def test_release_keeps_an_entry_that_is_no_task_and_says_how_to_read_it(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    send(app, "t1")
    client.lpush("minsched.node.n1", "by hand")
    answer = run_with(app, "release")
    assert answer.exit_code == 1
    output = " ".join(answer.output.split())
    assert "Returned 1 message to queue celery." in output
    assert "messages that are not task messages: minsched.node.n1. Read them with LRANGE" in output
    assert client.lrange("minsched.node.n1", 0, -1) == ["by hand"]
    client.delete("minsched.node.n1")
    release(app)


def test_release_keeps_all_other_keys(app: Celery, desk: Desk, client: redis.Redis) -> None:
    add_left_node(desk)
    send(app, "t1")
    others = {"scheduler:leader": "x", "minsched": "y", "application": "z"}
    client.mset(others)
    release(app)
    left = {key: client.get(key) for key in client.scan_iter() if client.type(key) == "string"}
    assert left == others


def test_an_interrupted_release_can_be_repeated(
    app: Celery, desk: Desk, client: redis.Redis
) -> None:
    """The interruption is in the deletion of the keys. Then an application sends a task."""
    from celery_minsched.migration.release import Releaser

    add_left_node(desk)
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
    assert release(again)["left"] == []
    assert ids(client) == ["t1", "t2"]
    assert scheduler_keys(client) == []


def test_release_works_with_real_nodes(fleet: Fleet, client: redis.Redis) -> None:
    fleet.start_ready("n1", "-P", "threads", slots=1)
    running = fleet.send("hold", "it")
    wait_for(lambda: client.exists("test:began:it"))
    waits = fleet.send("note", "later")
    assert run_with(fleet.app, "release").exit_code == 2
    assert run_with(fleet.app, "drain", "n1").exit_code == 0
    assert release(fleet.app, code=1)["returned"] == {"celery": 1}
    client.lpush("test:release:it", "now")
    running.get(timeout=20)
    fleet.stop("n1", signal.SIGTERM)
    assert release(fleet.app)["left"] == []
    assert scheduler_keys(client) == []
    assert ids(client) == [waits.id]
