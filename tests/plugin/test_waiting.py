"""Waiting jobs on real nodes: their order, the nodes that can take them, and changes of nodes."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
from celery import chain, chord, group

from celery_minsched import Backlogged, EmptyPool, NoAvailableNode, NoPoolForLangPair
from celery_minsched.plugin import plugin

from ..support.crowd import held, mark, marks, node_of, sig, status, wait_status
from ..support.fixtures import fleet_on_empty, kept_client, quiet_fleet
from ..support.fleet import Fleet, make_app, wait_for
from ..support.server import Server

client, fleet = kept_client, quiet_fleet


@pytest.fixture(scope="module")
def nodes(_server: Server) -> Iterator[Fleet]:
    """Two nodes of one slot each: "a" in two pools, "b" with two capabilities."""
    with fleet_on_empty(_server) as fleet:
        fleet.start("a", "-P", "threads", "--pool", "mt", slots=1)
        fleet.start("b", "-P", "threads", "--capability", "gpu", "--capability", "big", slots=1)
        fleet.wait_online("a", "b")
        yield fleet


class TestTurns:
    """Two fairness keys, sessions or lines that wait for one slot share it."""

    @pytest.mark.parametrize(
        ("where", "flood", "few"),
        [
            ("keys", {"fairness_key": "flood"}, {"fairness_key": "few"}),
            ("sessions", {"session_id": "flood"}, {"session_id": "few"}),
            ("lines", {}, {"pool": "mt"}),
        ],
    )
    def test_a_flood_gets_every_second_turn_while_other_jobs_wait(
        self, fleet: Fleet, client: redis.Redis, where: str, flood: Any, few: Any
    ) -> None:
        with held(fleet, client, "a", "b") as (a, _):
            fleet.plugin.dispatch_many(
                mark(fleet.app, where, "flood", minsched=flood) for _ in range(200)
            )
            fleet.plugin.dispatch_many(
                mark(fleet.app, where, "few", minsched=few) for _ in range(20)
            )
            a.release()
            order = marks(client, where, 220)
        last = max(turn for turn, name in enumerate(order) if name == "few")
        both = order[: last + 1]  # while both wait
        assert abs(both.count("flood") - both.count("few")) <= 2
        assert all({"few"} & set(trio) for trio in zip(both, both[1:], both[2:], strict=False))

    def test_jobs_run_by_priority_and_then_by_age(self, fleet: Fleet, client: redis.Redis) -> None:
        """Priority 0 is the highest. kombu's Redis transport has the steps 0, 3, 6 and 9."""
        priorities = [*range(10), *range(10)]
        random.Random(1).shuffle(priorities)
        with held(fleet, client, "a", "b") as (a, _):
            for number, priority in enumerate(priorities):
                fleet.send("mark", "priority", number, priority=priority)
            a.release()
            order = [int(number) for number in marks(client, "priority", 20)]
        assert order == sorted(order, key=lambda number: (priorities[number] // 3, number))


class TestAffinity:
    def test_prefer_moves_the_session_to_a_node_with_a_free_slot(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        mine = {"session_id": "moves"}
        with held(fleet, client, "b", **mine):
            moved = fleet.send("where_am_i", minsched=mine)
            assert moved.get(timeout=20)["hostname"] == "celery@a"
            wait_status(fleet, "finished", moved)  # its slot is free later than its result
        again = fleet.send("where_am_i", minsched=mine)
        assert again.get(timeout=20)["hostname"] == "celery@a"
        job = fleet.job(again.id)
        assert job is not None
        assert job.chosen_by == "sticky"

    def test_a_waiting_job_moves_the_session_to_the_first_free_node(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        mine = {"session_id": "follows"}
        with held(fleet, client, "a", **mine), held(fleet, client, "b") as (b,):
            waiting = fleet.send("where_am_i", minsched=mine)
            wait_status(fleet, "waiting", waiting)
            b.release()
            assert waiting.get(timeout=20)["hostname"] == "celery@b"
        assert client.hget("scheduler:session:follows", "node_id") == "b"

    def test_require_waits_for_its_node_while_another_is_free(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        mine = {"session_id": "stays", "affinity": "require"}
        with held(fleet, client, "a", **mine) as (a,):
            waiting = fleet.send("where_am_i", minsched=mine)
            other = fleet.send("where_am_i", minsched={"affinity": "none", "session_id": "stays"})
            assert other.get(timeout=20)["hostname"] == "celery@b"
            assert status(fleet, waiting) == "waiting"
            a.release()
            assert waiting.get(timeout=20)["hostname"] == "celery@a"

    def test_a_required_node_that_is_drained_loses_its_session(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        mine = {"session_id": "drained", "affinity": "require"}
        with held(fleet, client, "a", **mine):
            waiting = fleet.send("where_am_i", minsched=mine)
            wait_status(fleet, "waiting", waiting)
            fleet.plugin.scheduler.drain_node("a")
            assert waiting.get(timeout=20)["hostname"] == "celery@b"
        fleet.plugin.scheduler.drain_node("a", draining=False)
        after = fleet.send("where_am_i", minsched=mine)
        assert after.get(timeout=20)["hostname"] == "celery@b"  # the session has moved

    def test_a_required_node_that_is_killed_loses_its_session(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        fleet.start_ready("dies", "-P", "threads", slots=1)
        mine = {"session_id": "killed", "affinity": "require"}
        fleet.send("note", "killed", 30.0, minsched={**mine, "preferred_node": "dies"})
        wait_for(lambda: client.exists("test:began:killed"))
        waiting = fleet.send("where_am_i", minsched=mine)
        wait_status(fleet, "waiting", waiting)
        fleet.stop("dies", signal.SIGKILL)
        assert waiting.get(timeout=20)["hostname"] in ("celery@a", "celery@b")


def test_a_job_that_waits_for_capabilities_blocks_no_other_job(
    fleet: Fleet, client: redis.Redis
) -> None:
    with held(fleet, client, "a", "b") as (a, b):
        special = fleet.send("where_am_i", minsched={"capabilities": ["big", "gpu"]})
        plain = [fleet.send("where_am_i") for _ in range(3)]
        wait_status(fleet, "waiting", special, *plain)
        a.release()
        assert [r.get(timeout=20)["hostname"] for r in plain] == ["celery@a"] * 3
        assert status(fleet, special) == "waiting"
        b.release()
        assert special.get(timeout=20)["hostname"] == "celery@b"


class TestRefused:
    def test_backlogged_is_raised_at_once_and_nothing_is_sent(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        app = make_app(fleet.server.url, minsched_max_waiting=2)
        with held(fleet, client, "a", "b"):
            waiting = [fleet.send("mark", "backlog", n) for n in range(2)]
            wait_status(fleet, "waiting", *waiting)
            before = _state(client)
            for options in ({}, {"priority": 9}, {"expires": 60}):
                with pytest.raises(Backlogged, match="2 jobs wait for the same demand"):
                    app.send_task(
                        "tests.support.app.add", (1,), minsched={"pool": "asr"}, **options
                    )
            assert _state(client) == before
            app.send_task(
                "tests.support.app.mark",
                ("backlog", "delayed"),
                minsched={"pool": "asr"},
                countdown=1,
            )
        assert sorted(marks(client, "backlog", 3)) == ["0", "1", "delayed"]

    def test_dispatch_many_sends_the_tasks_before_the_refused_task(
        self, fleet: Fleet, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plugin, "BATCH", 4)
        app = make_app(fleet.server.url, minsched_max_waiting=6)
        with held(fleet, client, "a", "b"):
            many = [mark(app, "many", n) for n in range(12)]
            with pytest.raises(Backlogged):
                app.minsched.dispatch_many(many)
            assert len(client.keys("minsched.job.*")) == 6
            assert [line.waiting for line in fleet.views.lines()] == [6]
        assert sorted(marks(client, "many", 6)) == ["0", "1", "2", "3", "4", "5"]

    def test_with_when_full_error_the_caller_gets_an_error_for_each_cause(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        with held(fleet, client, "a", "b"):
            before = _state(client)
            pair: dict[str, Any] = {"pool": None, "src_lang": "zh", "tgt_lang": "xx"}
            for demand, error in (
                ({}, NoAvailableNode),
                ({"capabilities": ["gpu"]}, NoAvailableNode),
                ({"capabilities": ["gpu", "rare"]}, EmptyPool),
                ({"pool": "nowhere"}, EmptyPool),
                (pair, NoPoolForLangPair),
            ):
                with pytest.raises(error):
                    fleet.send("add", 1, minsched={**demand, "when_full": "error"})
            assert _state(client) == before


def _state(client: redis.Redis) -> set[str]:
    """The keys of jobs, lines and messages, and the number of the newest job."""
    keys = {key for key in client.keys("*") if "counts" not in key}
    return keys | {client.get("scheduler:job:id_seq")}


def test_an_impossible_job_is_logged_and_runs_when_a_node_can_run_it(
    fleet: Fleet, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    rare = {"capabilities": ["gpu", "rare"]}
    with held(fleet, client, "a", "b"), caplog.at_level(logging.DEBUG, "celery_minsched"):
        busy = fleet.send("where_am_i")
        impossible = fleet.send("where_am_i", minsched=rare)
        fleet.send("where_am_i", minsched=rare).revoke()
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        no_node = "tasks wait, and no registered node can run them:"
        assert warnings == [f"{no_node} asr +gpu +rare"]  # one entry for both jobs
        debug_text = rf"task {impossible.id} is job :\d+, and waits \(impossible\)"
        assert re.search(debug_text, caplog.text)
        possible = {tuple(line.capabilities): line.possible for line in fleet.views.lines()}
        assert possible == {(): True, ("gpu", "rare"): False}
        fleet.send("where_am_i", minsched={"pool": "nowhere"}).revoke()
        assert caplog.messages.count(f"{no_node} nowhere") == 1
    busy.get(timeout=20)
    assert status(fleet, impossible) == "waiting"
    fleet.start("c", "-P", "threads", "--capability", "gpu", "--capability", "rare", slots=1)
    assert impossible.get(timeout=30)["hostname"] == "celery@c"
    assert fleet.stop("c") == 0


class TestNodeChanges:
    def test_a_drained_node_takes_no_waiting_job(self, fleet: Fleet, client: redis.Redis) -> None:
        with held(fleet, client, "a", "b") as (a, b):
            waiting = [fleet.send("where_am_i") for _ in range(4)]
            wait_status(fleet, "waiting", *waiting)
            fleet.plugin.scheduler.drain_node("a")
            a.release()
            assert {status(fleet, result) for result in waiting} == {"waiting"}
            b.release()
            assert {r.get(timeout=20)["hostname"] for r in waiting} == {"celery@b"}
        fleet.plugin.scheduler.drain_node("a", draining=False)

    def test_an_undrained_node_takes_waiting_jobs(self, fleet: Fleet, client: redis.Redis) -> None:
        with held(fleet, client, "b"):
            fleet.plugin.scheduler.drain_node("a")
            waiting = fleet.send("where_am_i")
            wait_status(fleet, "waiting", waiting)
            fleet.plugin.scheduler.drain_node("a", draining=False)
            assert waiting.get(timeout=20)["hostname"] == "celery@a"

    def test_the_slots_of_a_node_follow_the_size_of_its_worker_pool(
        self, fleet: Fleet, client: redis.Redis
    ) -> None:
        """A new process of the worker pool takes a waiting job."""
        fleet.start_ready("pool", "--capability", "grows", slots=1)
        demand = {"capabilities": ["grows"]}
        control, workers = fleet.app.control, ["celery@pool"]
        with held(fleet, client, "pool", **demand):
            waiting = fleet.send("where_am_i", minsched=demand)
            wait_status(fleet, "waiting", waiting)
            control.pool_grow(1, destination=workers)
            assert waiting.get(timeout=20)["hostname"] == "celery@pool"
            # The worker refuses until the process of the last task is idle.
            wait_for(lambda: "ok" in str(control.pool_shrink(1, destination=workers, reply=True)))
            wait_for(lambda: fleet.node("pool").max_jobs == 1)  # type: ignore[union-attr]
            waiting = fleet.send("where_am_i", minsched=demand)
            wait_status(fleet, "waiting", waiting)
        assert waiting.get(timeout=20)["hostname"] == "celery@pool"
        assert fleet.stop("pool") == 0


class TestCanvas:
    def test_each_task_of_a_chain_waits(self, fleet: Fleet, client: redis.Redis) -> None:
        with held(fleet, client, "a", "b"):
            result = chain(*(sig(fleet.app, "add", n) for n in range(1, 5)))()
            wait_for(lambda: fleet.views.lines())
        assert result.get(timeout=20) == 10

    @pytest.mark.parametrize("at_once", [True, False])
    def test_each_task_of_a_chord_waits(
        self, fleet: Fleet, client: redis.Redis, at_once: bool
    ) -> None:
        work = chord([sig(fleet.app, "add", n) for n in range(12)], sig(fleet.app, "add"))
        with held(fleet, client, "a", "b"):
            if at_once:
                with fleet.plugin.batch():
                    result = work()
            else:
                result = work()
            assert [line.waiting for line in fleet.views.lines()] == [12]
        assert result.get(timeout=20) == sum(range(12))

    def test_each_task_of_a_group_waits(self, fleet: Fleet, client: redis.Redis) -> None:
        with held(fleet, client, "a", "b"):
            with fleet.plugin.batch():
                result = group(sig(fleet.app, "add", n, n) for n in range(12))()
            assert [line.waiting for line in fleet.views.lines()] == [12]
        assert result.get(timeout=20) == [2 * n for n in range(12)]


def test_large_messages_wait_unchanged(fleet: Fleet, client: redis.Redis) -> None:
    texts = [chr(97 + n) * (5 * 1024 * 1024) for n in range(3)]
    with held(fleet, client, "a", "b"):
        results = [fleet.send("digest", text) for text in texts]
        wait_status(fleet, "waiting", *results)
    for text, result in zip(texts, results, strict=True):
        assert result.get(timeout=30) == hashlib.sha256(text.encode()).hexdigest()


def test_a_retry_waits_behind_the_waiting_jobs(fleet: Fleet, client: redis.Redis) -> None:
    with held(fleet, client, "a", "b") as (a, _):
        first = fleet.send("retries")
        rest = [fleet.send("mark", "retry", n) for n in range(10)]
        wait_status(fleet, "waiting", first, *rest)
        a.release()
        assert len(marks(client, "retry", 10)) == 10
        assert first.get(timeout=20)["demand"] == {"pool": "asr"}
        assert node_of(fleet, first) == "a"


def test_jobs_run_in_the_order_of_their_calls(fleet: Fleet, client: redis.Redis) -> None:
    """The number in a job's id is its age. A batch numbers its jobs in their order."""
    with held(fleet, client, "a", "b") as (a, _):
        fleet.plugin.dispatch_many(mark(fleet.app, "age", n) for n in range(20))
        for number in range(20, 30):
            fleet.send("mark", "age", number)
        a.release()
        order = [int(number) for number in marks(client, "age", 30)]
    assert all(earlier < later for earlier, later in pairwise(order))
