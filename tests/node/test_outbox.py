"""A call to Redis that fails never blocks the ending of another job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from node_agent.endings import Endings
from node_agent.outbox import Outbox, is_temporary
from node_agent.revokes import WaitingTasks
from node_agent.slots import Slots

from ..support.desk import Desk
from ..support.fleet import wait_for
from ..support.server import Server

NO_MEMORY = OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
BROKEN = redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")


class Calls:
    """Calls that fail while ``errors`` has an error for them. ``done`` has the successful calls."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.tries: dict[str, int] = {}
        self.errors: dict[str, Exception] = {}

    def call(self, name: str, error: Exception | None = None) -> Callable[[], None]:
        if error:
            self.errors[name] = error

        def run() -> None:
            self.tries[name] = self.tries.get(name, 0) + 1
            if name in self.errors:
                raise self.errors[name]
            self.done.append(name)

        return run

    def wait_retry(self, name: str) -> None:
        """Wait until the call fails once more."""
        tries = self.tries[name]
        wait_for(lambda: self.tries[name] > tries)


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    outbox = Outbox()
    outbox.start()
    yield outbox
    outbox.stop(5)
    assert not any(thread.name == "outbox" for thread in threading.enumerate())


def test_a_refused_call_is_retried_behind_the_other_calls(outbox: Outbox) -> None:
    calls = Calls()
    outbox.put("revoke", calls.call("revoke", NO_MEMORY))
    for name in ("first", "second"):
        outbox.put_ending(name, calls.call(name))
    outbox.put("claim", calls.call("claim"))
    wait_for(lambda: calls.done == ["first", "second", "claim"])
    calls.wait_retry("revoke")
    del calls.errors["revoke"]
    wait_for(lambda: calls.done[3:] == ["revoke"])


def test_a_call_without_a_reply_blocks_no_ending(outbox: Outbox) -> None:
    calls = Calls()
    outbox.put("place", calls.call("place", redis.TimeoutError("Timeout reading from socket")))
    wait_for(lambda: calls.tries.get("place"))
    outbox.put_ending("end", calls.call("end"))
    wait_for(lambda: calls.done == ["end"])
    calls.wait_retry("place")
    del calls.errors["place"]
    wait_for(lambda: calls.done == ["end", "place"])


def test_endings_keep_their_order_while_redis_refuses_them(outbox: Outbox) -> None:
    calls = Calls()
    read_only = ReadOnlyError("You can't write against a read only replica.")
    outbox.put_ending("first", calls.call("first", read_only))
    outbox.put_ending("second", calls.call("second"))
    outbox.put("claim", calls.call("claim"))
    wait_for(lambda: calls.done == ["claim"])
    calls.wait_retry("first")
    assert "second" not in calls.tries
    del calls.errors["first"]
    wait_for(lambda: calls.done == ["claim", "first", "second"])


def test_an_ending_that_frees_a_slot_is_sent_before_other_endings(outbox: Outbox) -> None:
    calls, begun, go_on = Calls(), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(10)

    outbox.put("first", first)
    assert begun.wait(10)
    outbox.put_ending("revoked", calls.call("revoked"), frees_slot=False)
    outbox.put_ending("ending", calls.call("ending"))
    go_on.set()
    wait_for(lambda: calls.done == ["ending", "revoked"])


def test_a_failing_ending_is_kept_and_blocks_no_other_ending(outbox: Outbox) -> None:
    """An operator can repair the job's record."""
    calls = Calls()
    outbox.put_ending("broken", calls.call("broken", BROKEN))
    outbox.put_ending("ending", calls.call("ending"))
    wait_for(lambda: calls.done == ["ending"])
    calls.wait_retry("broken")
    del calls.errors["broken"]
    wait_for(lambda: calls.done == ["ending", "broken"])


def test_a_call_that_cannot_succeed_is_given_up_and_logged(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()
    gave_up = threading.Event()
    outbox.put("revoke task t1", calls.call("broken", BROKEN), give_up=gave_up.set)
    outbox.put("claim", calls.call("claim"))
    wait_for(lambda: calls.done == ["claim"])
    assert gave_up.is_set()
    assert calls.tries["broken"] == 1
    assert "cannot revoke task t1. The node does not try again" in caplog.text


def test_after_a_connection_loss_endings_are_sent_first(outbox: Outbox) -> None:
    calls, unreachable = Calls(), redis.ConnectionError("refused")
    outbox.put("claim", calls.call("claim", unreachable))
    wait_for(lambda: calls.tries)
    for name in ("first", "second"):
        outbox.put_ending(name, calls.call(name, unreachable))
    wait_for(lambda: calls.tries.get("first"))
    calls.wait_retry("first")
    assert "second" not in calls.tries
    calls.errors.clear()
    wait_for(lambda: calls.done == ["first", "second", "claim"])


def test_pending_endings_are_sent_before_the_outbox_stops(outbox: Outbox) -> None:
    calls = Calls()
    outbox.put("refused", calls.call("refused", NO_MEMORY))
    outbox.put_ending("ending", calls.call("ending", NO_MEMORY))
    wait_for(lambda: len(calls.tries) == 2)
    threading.Timer(0.2, lambda: calls.errors.pop("ending")).start()
    outbox.stop(5)
    assert calls.done == ["ending"]


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
    Endings(desk.service, slots).report(job.job_id, "finished")
    wait_for(lambda: desk.status(job.job_id) == "finished")
    wait_for(lambda: desk.status(good) == "failed")
    client.rename("kept", "scheduler:task:bad")
    client.expire("scheduler:task:bad", 3600)  # the dispatch set this TTL, too
    slots.stop()
    assert desk.status(bad) == "dispatched"
