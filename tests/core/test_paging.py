"""Many or large messages are sent in short calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_minsched import Backlogged, DispatchRequest, MinimalSchedulerService, Settings
from celery_minsched.core.job_fields import job_arguments
from celery_minsched.core.lua_source import sha, source
from celery_minsched.core.models import DispatchResponse
from celery_minsched.core.paging import MOST_BYTES, MOST_ITEMS, pages

from ..support.desk import Desk, silence
from ..support.fleet import make_app
from ..support.sent_messages import numbers
from ..support.server import Server

Job = tuple[DispatchRequest, tuple[str, str]]


def jobs(number: int, size: int = 0) -> list[Job]:
    message = ('{"job_id": ', f', "text": "{"x" * size}"}}')
    return [
        (DispatchRequest(pool="asr", when_full="wait", task_id=f"t{n}", token="once"), message)
        for n in range(number)
    ]


def calls(client: redis.Redis, act: Callable[[], Any], command: str = "evalsha") -> int:
    """The number of calls of a command."""
    client.config_resetstat()
    act()
    return int(client.info("commandstats")[f"cmdstat_{command}"]["calls"])


@pytest.mark.parametrize("size", [1, 700_000, 2_000_000])
def test_a_call_has_a_bounded_number_of_items_and_of_bytes(size: int) -> None:
    items = [(f"{n}", "x" * size) for n in range(2 * MOST_ITEMS if size == 1 else 5)]
    cut = list(pages(items))
    assert [item for page in cut for item in page] == items
    assert max(map(len, cut)) == (MOST_ITEMS if size == 1 else 1)
    assert list(pages([])) == []


def test_thousands_of_jobs_are_dispatched_in_their_order(desk: Desk, client: redis.Redis) -> None:
    """In a single call, Lua had no room for their queue entries, and the jobs were in no line."""
    desk.service.dispatch_tasks(jobs(1))
    many = jobs(4100)
    places: list[Any] = []
    number = calls(client, lambda: places.extend(desk.service.dispatch_tasks(many)))
    assert number == 41
    job_ids = [place.job_id for place in places]
    assert job_ids == [f":{n}" for n in range(1, 4101)]
    assert client.zcard(desk.service.keys("waiting", "asr//")) == 4100
    again = desk.service.dispatch_tasks(many)
    assert [place.job_id for place in again if isinstance(place, DispatchResponse)] == job_ids


def test_large_messages_have_their_own_calls(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 3)
    large = jobs(10, MOST_BYTES * 2 // 5)
    assert calls(client, lambda: desk.service.dispatch_tasks(large)) == 5
    desk.service.prepare_dispatch(jobs(1))()()
    client.flushall()
    answers: list[Any] = []
    number = calls(client, lambda: answers.extend(desk.service.prepare_dispatch(large)()()))
    assert number == 5
    assert [answer.job_id for answer in answers] == [f":{n}" for n in range(1, 11)]


def test_jobs_for_nodes_with_many_capabilities_have_shorter_calls(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1", 100, caps=[f"c{n}" for n in range(255)])
    places: list[Any] = []
    number = calls(client, lambda: places.extend(desk.service.dispatch_tasks(jobs(100))))
    assert number == 5
    assert [place.job_id for place in places] == [f":{n}" for n in range(1, 101)]


def test_messages_that_a_plain_worker_took_are_searched_in_short_calls(
    desk: Desk, client: redis.Redis
) -> None:
    """For each message Redis reads the whole list."""
    client.lpush("celery", *(f"other {n}" for n in range(30_000)))
    gone = [(f"m{n}", *job) for n, job in enumerate(jobs(7))]
    client.rpush("celery", "m5")
    desk.service.adopt_tasks("celery", gone[:1])
    answers: list[Any] = []
    number = calls(client, lambda: answers.extend(desk.service.adopt_tasks("celery", gone)))
    assert number == 3
    assert [answer and answer.job_id for answer in answers] == [None] * 5 + [":1", None]


def test_the_first_refusal_ends_all_calls(client: redis.Redis) -> None:
    service = MinimalSchedulerService(client, Settings(max_waiting=150))
    for send in (service.dispatch_tasks, lambda many: service.prepare_dispatch(many)()()):
        *placed, refused = send(jobs(1000))
        assert len(placed) == 150
        assert isinstance(refused, Backlogged)
        assert client.get(service.keys("job_id_seq")) == "150"


def test_a_script_refuses_more_jobs_than_one_call_takes_before_it_writes(
    service: MinimalSchedulerService, client: redis.Redis
) -> None:
    args = [job_arguments(service.keys, 1000, *job) for job in jobs(MOST_ITEMS + 1)]
    for name, before, batch in (
        ("dispatch_task", (), args),
        ("adopt_task", ("celery",), [("raw", *job) for job in args]),
    ):
        client.script_load(source(name))
        client.lpush("celery", "raw")
        flat = [arg for job in batch for arg in job]
        with pytest.raises(redis.ResponseError, match="TOO_MANY_JOBS: at most 100"):
            client.evalsha(sha(name), 2, "scheduler:", "", "1 1 1 1 1", *before, *flat)
        assert client.keys() == ["celery"]
        client.delete("celery")


def test_many_messages_are_adopted_up_to_the_first_refused_one(client: redis.Redis) -> None:
    service = MinimalSchedulerService(client, Settings(max_waiting=150))
    messages = [(f"m{n}", *job) for n, job in enumerate(jobs(300))]
    for raw, _, _ in messages:
        if raw != "m120":
            client.lpush("celery", raw)
    *answers, refused = service.adopt_tasks("celery", messages)
    assert isinstance(refused, Backlogged)
    assert [at for at, answer in enumerate(answers) if answer is None] == [120]
    assert len(answers) == 151
    assert client.lrange("celery", -1, -1) == ["m151"]
    assert client.llen("celery") == 149


def test_many_jobs_are_placed_a_hundred_in_a_round_trip(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 250)
    placed = desk.service.dispatch_tasks(jobs(250))
    job_ids = [place.job_id for place in placed if isinstance(place, DispatchResponse)]
    for job_id in job_ids:
        source, own = desk.service.keys("node_queue", "n1"), desk.service.keys("job_queue", job_id)
        client.lmove(source, own, "RIGHT", "LEFT")
    became: list[str] = []
    trips = calls(
        client,
        lambda: became.extend(desk.service.place_jobs(job_ids, "n1")),
        command="script|load",
    )
    assert trips == 3
    assert became == ["dispatched"] * 250
    desk.service.redis.delete(desk.service.keys("node_queue", "n1"))


@pytest.mark.parametrize("way", ["dispatch_many", "batch"])
def test_an_application_s_large_tasks_are_sent_in_their_order(
    server: Server, client: redis.Redis, way: str
) -> None:
    with make_app(server.url, task_ignore_result=True) as app:
        app.conf.minsched_routes = {"add": {"pool": "asr"}}
        text = "x" * (MOST_BYTES // 4)
        tasks = [app.signature("add", (number, text)) for number in range(7)]
        app.send_task("add", (-1,))  # the script is loaded

        def send() -> None:
            if way == "dispatch_many":
                app.minsched.dispatch_many(tasks)
                return
            with app.minsched.batch():
                for task in tasks:
                    task.apply_async()

        assert calls(client, send) == 4  # the message's body is in base64
    assert numbers(client) == list(range(-1, 7))


LARGE = ["x" * 1_000_000] * 10


def send_large(desk: Desk, number: int, **demand: Any) -> list[str]:
    request = DispatchRequest(pool="asr", when_full="wait", **demand)
    message = ('{"job_id": ', f', "text": "{"x" * 1_000_000}"}}')
    return [place.job_id for place in desk.service.dispatch_tasks([(request, message)] * number)]  # type: ignore[union-attr]


def move_all(client: redis.Redis, beat: Callable[[], Any], number: int) -> None:
    """Send heartbeats until ``number`` large messages are moved. Each heartbeat moves a few."""
    moved = 0
    while moved < number:
        client.config_resetstat()
        answer = beat()
        some = int(client.info("commandstats").get("cmdstat_lmove", {"calls": 0})["calls"])
        moved += some
        assert 0 < some <= 4
    assert answer.next_due_ms != 0


def test_a_call_moves_few_large_messages_from_a_line_to_a_node(
    desk: Desk, client: redis.Redis
) -> None:
    send_large(desk, 11)
    desk.node("n1", 10)
    assert desk.taken("n1") == 4
    move_all(client, lambda: desk.beat("n1"), 6)
    assert desk.taken("n1") == 10


def test_a_call_places_few_large_messages_that_fall_due(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 20)
    due_ts = desk.views.now() + 60_000
    for job_id in send_large(desk, 10, due_ts=due_ts):
        client.hset(desk.service.keys("job", job_id), "due_ts", 1)
        client.zadd(desk.service.keys("delayed"), {job_id: 1})
    move_all(client, lambda: desk.beat("n1"), 10)
    assert desk.taken("n1") == 10


def test_a_call_hands_out_few_large_messages_that_expire(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    send_large(desk, 10, expires_ts=10)
    move_all(client, lambda: desk.beat("n1"), 10)
    assert desk.views.lines() == []


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "back"])
def test_a_rescue_moves_few_large_messages_and_heartbeats_move_the_others(
    desk: Desk, client: redis.Redis, is_dead: bool
) -> None:
    keys = desk.service.keys
    desk.node("n1", 10)
    job_ids = send_large(desk, 10)
    for job_id in job_ids:
        client.lmove(keys("node_queue", "n1"), keys("job_queue", job_id), "RIGHT", "LEFT")
    if is_dead:
        silence(desk, "n1", 60_000)
        desk.node("n2", 10)
        desk.beat("n2", rescues=True)
    assert calls(client, lambda: desk.service.rescue_node("n1", job_ids), "lmove") <= 4
    assert {desk.status(job_id) for job_id in job_ids} == {"dispatched", "waiting"}
    taker = "n2" if is_dead else "n1"
    move_all(client, lambda: desk.beat(taker), 6)
    assert desk.taken(taker) == 10


def test_a_call_moves_few_large_messages_with_a_priority(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    queue = desk.service.keys("node_queue", "n1")
    client.lpush(queue + desk.service.keys.priority_suffix(9), *LARGE)
    lengths = []
    for _ in range(3):
        desk.beat("n1")
        lengths.append(client.llen(queue))
    assert lengths == [4, 8, 10]
    client.delete(queue)
