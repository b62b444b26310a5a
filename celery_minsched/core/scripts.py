"""Calls the Lua scripts by EVALSHA. Their texts come from :mod:`.lua_source`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.exceptions import NoScriptError, ReadOnlyError

from .keys import Keys
from .lua_source import sha, source

def call(client: redis.Redis, keys: Keys, name: str, *args: str | bytes | int | float) -> list[Any]:
    """Run script ``name``; the first item of its answer is ``OK`` or an error code.

    A server that has lost its scripts (restart, failover, SCRIPT FLUSH) is sent the source once
    more. Raises redis-py's own errors; an answer in bytes is decoded.
    """
    prefixes = (keys.prefix, keys.queue_prefix)
    with _looking_for_the_master(client):
        try:
            reply = client.evalsha(sha(name), 2, *prefixes, *args)
        except NoScriptError:
            reply = client.eval(source(name), 2, *prefixes, *args)
    answer: list[Any] = text(reply)
    return answer


def call_many(
    client: redis.Redis, keys: Keys, name: str, calls: Sequence[Sequence[str | bytes | int | float]]
) -> list[list[Any]]:
    """Run script ``name`` once for each of ``calls``, in one round trip; their answers in order."""
    if len(calls) == 1:
        return [call(client, keys, name, *calls[0])]
    with _looking_for_the_master(client), client.pipeline(transaction=False) as pipe:
        # SCRIPT LOAD first: in a pipeline there is no second try for a script that is not known.
        pipe.script_load(source(name))
        for args in calls:
            put(pipe, keys, name, *args)
        answers: list[list[Any]] = text(pipe.execute()[1:])
    return answers


def begin(
    client: redis.Redis, keys: Keys, name: str, *args: str | bytes | int | float
) -> Callable[[], list[Any]]:
    """Send a call of script ``name``; the function returned waits for its answer, and has to be
    called. Both raise redis-py's errors. Nothing is tried again, nor is the script sent to a server
    that does not know it.
    """
    connection = client.connection_pool.get_connection()

    def answer() -> list[Any]:
        try:
            reply: list[Any] = text(connection.read_response())
        finally:
            client.connection_pool.release(connection)
        return reply

    try:
        connection.send_command("EVALSHA", sha(name), 2, keys.prefix, keys.queue_prefix, *args)
    except BaseException:
        client.connection_pool.release(connection)
        raise
    return answer


def put(pipe: Any, keys: Keys, name: str, *args: str | bytes | int | float) -> None:
    """Put a call of script ``name`` in a pipeline; whoever does sees to it that Redis knows it."""
    pipe.evalsha(sha(name), 2, keys.prefix, keys.queue_prefix, *args)


@contextmanager
def _looking_for_the_master(client: redis.Redis) -> Iterator[None]:
    """A server that may only be read has become a replica: whatever name led here may lead to the
    master by now, but not over connections that are open. (With Sentinel redis-py does this.)
    """
    try:
        yield
    except redis.ResponseError as exc:
        if isinstance(exc, ReadOnlyError) or "READONLY" in str(exc):  # as Redis 6.2 says it
            client.connection_pool.disconnect(inuse_connections=False)
        raise
    except redis.TimeoutError:  # what lost this connection in silence has lost the idle ones too
        client.connection_pool.disconnect(inuse_connections=False)
        raise


def text(value: Any) -> Any:
    """An answer of Redis with its bytes as text, however deep."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return [text(item) for item in value]
    return value
