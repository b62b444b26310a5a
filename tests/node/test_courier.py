"""A call to Redis that fails never blocks the ending of another job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from node_agent.outbox import Outbox, is_temporary
from node_agent.revokes import WaitingTasks
from node_agent.slots import Slots

from ..support.desk import Desk
from ..support.fleet import wait_for
from ..support.server import Server

NO_MEMORY = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
BROKEN = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")


class Redis:
    """Calls that fail while ``errors`` has an error for them. ``done`` has the successful calls."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.tries: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}

    def call(self, name: str, error: Exception | None = None) -> Callable[[], None]:
        if error:
            self.errors[name] = error

        def make() -> None:
            self.tries[name] = self.tries.get(name, 0) + 1
            if name in self.errors:
                raise self.errors[name]
            self.done.append(name)

        return make

    def wait_retry(self, name: str) -> None:
        """Wait until the call fails once more."""
        tries = self.tries[name]
        wait_for(lambda: self.tries[name] > tries)


@pytest.fixture
def courier() -> Iterator[Outbox]:
    courier = Outbox()
    courier.start()
    yield courier
    courier.stop(5)
    assert not any(thread.name == "slots-courier" for thread in threading.enumerate())


def test_a_refused_call_is_retried_behind_the_other_calls(courier: Outbox) -> None:
    r = Redis()
    courier.put("revoke", r.call("revoke", NO_MEMORY))
    for name in ("first", "second"):
        courier.put_ending(name, r.call(name))
    courier.put("claim", r.call("claim"))
    wait_for(lambda: r.done == ["first", "second", "claim"])
    r.wait_retry("revoke")
    del r.errors["revoke"]
    wait_for(lambda: r.done[3:] == ["revoke"])


def test_a_call_without_a_reply_blocks_no_ending(courier: Outbox) -> None:
    r = Redis()
    courier.put("place", r.call("place", redis.TimeoutError("Timeout reading from socket")))
    wait_for(lambda: r.tries.get("place"))
    courier.put_ending("end", r.call("end"))
    wait_for(lambda: r.done == ["end"])
    r.wait_retry("place")
    del r.errors["place"]
    wait_for(lambda: r.done == ["end", "place"])


def test_endings_keep_their_order_while_redis_refuses_them(courier: Outbox) -> None:
    r = Redis()
    read_only = ReadOnlyError("You can't write against a read only replica.")
    courier.put_ending("first", r.call("first", read_only))
    courier.put_ending("second", r.call("second"))
    courier.put("claim", r.call("claim"))
    wait_for(lambda: r.done == ["claim"])
    r.wait_retry("first")
    assert "second" not in r.tries
    del r.errors["first"]
    wait_for(lambda: r.done == ["claim", "first", "second"])


def test_an_ending_that_frees_a_slot_is_sent_before_other_endings(courier: Outbox) -> None:
    r, begun, go_on = Redis(), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(10)

    courier.put("first", first)
    assert begun.wait(10)
    courier.put_ending("revoked", r.call("revoked"), frees_slot=False)
    courier.put_ending("ending", r.call("ending"))
    go_on.set()
    wait_for(lambda: r.done == ["ending", "revoked"])


def test_a_failing_ending_is_kept_and_blocks_no_other_ending(courier: Outbox) -> None:
    """An operator can repair the job's record."""
    r = Redis()
    courier.put_ending("broken", r.call("broken", BROKEN))
    courier.put_ending("ending", r.call("ending"))
    wait_for(lambda: r.done == ["ending"])
    r.wait_retry("broken")
    del r.errors["broken"]
    wait_for(lambda: r.done == ["ending", "broken"])


def test_a_call_that_cannot_succeed_is_given_up_and_logged(
    courier: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    r = Redis()
    gave_up = threading.Event()
    courier.put("revoke task t1", r.call("broken", BROKEN), give_up=gave_up.set)
    courier.put("claim", r.call("claim"))
    wait_for(lambda: r.done == ["claim"])
    assert gave_up.is_set()
    assert r.tries["broken"] == 1
    assert "cannot revoke task t1, and gives up" in caplog.text


def test_after_a_connection_loss_endings_are_sent_first(courier: Outbox) -> None:
    r, away = Redis(), redis.ConnectionError("refused")
    courier.put("claim", r.call("claim", away))
    wait_for(lambda: r.tries)
    for name in ("first", "second"):
        courier.put_ending(name, r.call(name, away))
    wait_for(lambda: r.tries.get("first"))
    r.wait_retry("first")
    assert "second" not in r.tries
    r.errors.clear()
    wait_for(lambda: r.done == ["first", "second", "claim"])


def test_pending_endings_are_sent_before_the_outbox_stops(courier: Outbox) -> None:
    r = Redis()
    courier.put("refused", r.call("refused", NO_MEMORY))
    courier.put_ending("ending", r.call("ending", NO_MEMORY))
    wait_for(lambda: len(r.tries) == 2)
    threading.Timer(0.2, lambda: r.errors.pop("ending")).start()
    courier.stop(5)
    assert r.done == ["ending"]


def test_errors_of_the_server_are_temporary_and_errors_of_a_call_are_not(server: Server) -> None:
    with server.client() as client:
        client.lpush("list", "entry")
        write, read = "return redis.call('SET', 'key', 1)", "return redis.call('GET', 'list')"
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.ResponseError) as no_memory:
            client.eval(write, 0)
        client.config_set("maxmemory", 0)
        with pytest.raises(redis.ResponseError) as wrong_type:
            client.eval(read, 0)
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(redis.ResponseError) as read_only:
            client.eval(write, 0)
        client.replicaof("NO", "ONE")
    errors = [no_memory.value, wrong_type.value, read_only.value]
    assert list(map(is_temporary, errors)) == [True, False, True]


def test_a_task_with_an_invalid_record_blocks_no_ending(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    job = desk.dispatch()
    bad, good = desk.park(task_id="bad"), desk.park(task_id="good")
    client.rename("scheduler:task:bad", "kept")
    client.lpush("scheduler:task:bad", "no string")
    slots = Slots(desk.service, "n1", lambda: 1)
    slots.start()
    WaitingTasks(desk.service, "n1", slots.outbox).revoke(["bad", "good"])
    slots.report_end(job.job_id, "finished")
    wait_for(lambda: desk.status(job.job_id) == "finished")
    wait_for(lambda: desk.status(good) == "failed")
    client.rename("kept", "scheduler:task:bad")
    client.expire("scheduler:task:bad", 3600)  # the dispatch set this TTL, too
    slots.stop()
    assert desk.status(bad) == "dispatched"
