"""Calls the Lua scripts by EVALSHA. Their texts come from :mod:`.lua_source`.

Arguments are given by the names in the script's header. The items that a script takes after its
single arguments are given as one sequence, for example ``job_ids=["u1:1", "u1:2"]``. If an item has
several fields, it is a tuple of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, ReadOnlyError

from . import lua_source
from .keys import Keys
from .texts import text

Value = str | bytes | int | float


def in_order(name: str, /, **arguments: Any) -> list[Value]:
    """The arguments of script ``name`` in the order of its header.

    Raises ``TypeError`` if the header has other names.
    """
    signature = lua_source.arguments(name)
    names = (*signature.single, *([signature.items] if signature.items else []))
    if len(arguments) != len(names) or not all(argument in arguments for argument in names):
        raise TypeError(f"{name}.lua takes {', '.join(names)}, and not {', '.join(arguments)}")
    ordered: list[Value] = [arguments[argument] for argument in signature.single]
    if len(signature.fields) == 1:
        ordered += arguments[signature.items]
    elif signature.items:
        for item in arguments[signature.items]:
            ordered += item
    return ordered


def call(client: redis.Redis, keys: Keys, name: str, /, **arguments: Any) -> list[Any]:
    """Run script ``name``. The first item of its answer is ``OK`` or an error code.

    Sends the source if the server has lost its scripts (restart, failover, SCRIPT FLUSH). Raises
    redis-py's own errors.
    """
    answer: list[Any] = text(call_for_bytes(client, keys, name, **arguments))
    return answer


def call_for_bytes(client: redis.Redis, keys: Keys, name: str, /, **arguments: Any) -> list[Any]:
    """Like :func:`call`. Returns each text of the answer as bytes."""
    prefixes, args = (keys.prefix, keys.queue_prefix), in_order(name, **arguments)
    as_bytes = {NEVER_DECODE: True}
    with _looking_for_the_master(client):
        try:
            sha = lua_source.sha(name)
            reply = client.execute_command("EVALSHA", sha, 2, *prefixes, *args, **as_bytes)
        except NoScriptError:
            source = lua_source.source(name)
            reply = client.execute_command("EVAL", source, 2, *prefixes, *args, **as_bytes)
    answer: list[Any] = reply
    return answer


def call_each_for_bytes(
    client: redis.Redis, keys: Keys, name: str, rows: Sequence[dict[str, Any]]
) -> list[list[Any] | redis.ResponseError]:
    """As :func:`call_for_bytes` for each row of arguments, in one round trip.

    An error of one call is among the answers.
    """

    def call_alone(row: dict[str, Any]) -> list[Any] | redis.ResponseError:
        try:
            return call_for_bytes(client, keys, name, **row)
        except redis.ResponseError as exc:
            return exc

    if len(rows) == 1:
        return [call_alone(rows[0])]
    prefixes, sha = (keys.prefix, keys.queue_prefix), lua_source.sha(name)
    with _looking_for_the_master(client), client.pipeline(transaction=False) as pipe:
        for row in rows:
            args = in_order(name, **row)
            pipe.execute_command("EVALSHA", sha, 2, *prefixes, *args, **{NEVER_DECODE: True})
        answers = pipe.execute(raise_on_error=False)
    return [
        call_alone(row) if isinstance(answer, NoScriptError) else answer
        for row, answer in zip(rows, answers, strict=True)
    ]


def call_many(
    client: redis.Redis,
    keys: Keys,
    name: str,
    fields: Sequence[str],
    rows: Sequence[Sequence[Value]],
) -> list[list[Any]]:
    """Run script ``name`` once for each row, in one round trip. Returns the answers in order.

    A row has the arguments that ``fields`` names. The script takes no items.
    """
    calls = [dict(zip(fields, row, strict=True)) for row in rows]
    if len(calls) == 1:
        return [call(client, keys, name, **calls[0])]
    with _looking_for_the_master(client), client.pipeline(transaction=False) as pipe:
        # SCRIPT LOAD first: a pipeline has no second attempt for an unknown script.
        pipe.script_load(lua_source.source(name))
        for arguments in calls:
            args = in_order(name, **arguments)
            pipe.evalsha(lua_source.sha(name), 2, keys.prefix, keys.queue_prefix, *args)
        answers: list[list[Any]] = text(pipe.execute()[1:])
    return answers


def prepare(
    client: redis.Redis, keys: Keys, name: str, /, **arguments: Any
) -> Callable[[], Callable[[], list[Any]]]:
    """Make the text of a call of script ``name``, and send nothing.

    Returns a function that sends the call. It returns a function that waits for the answer, and
    that must be called. All three raise redis-py's errors. None tries again, nor sends the source
    to a server that does not know the script.
    """
    pool, args = client.connection_pool, in_order(name, **arguments)
    command = ("EVALSHA", lua_source.sha(name), 2, keys.prefix, keys.queue_prefix, *args)
    connection = pool.get_connection()
    try:
        # One piece: redis-py would write each few kilobytes, and each write wakes the server.
        packed = b"".join(connection.pack_command(*command))
    finally:
        pool.release(connection)
    return partial(_send, pool, packed)


def _send(pool: redis.ConnectionPool, packed: bytes) -> Callable[[], list[Any]]:
    connection = pool.get_connection()

    def answer() -> list[Any]:
        try:
            reply: list[Any] = text(connection.read_response())
        finally:
            pool.release(connection)
        return reply

    try:
        connection.send_packed_command([packed])
    except BaseException:
        pool.release(connection)
        raise
    return answer


@contextmanager
def _looking_for_the_master(client: redis.Redis) -> Iterator[None]:
    """Closes idle connections after an error that a failover may have caused.

    A read-only server has become a replica. The name that led to it may lead to the master now, but
    open connections do not. (With Sentinel, redis-py does this itself.)
    """
    try:
        yield
    except redis.ResponseError as exc:
        # Redis 6.2 has the word only in the text.
        if isinstance(exc, ReadOnlyError) or "READONLY" in str(exc):
            client.connection_pool.disconnect(inuse_connections=False)
        raise
    except redis.TimeoutError:  # the idle connections are probably dead too
        client.connection_pool.disconnect(inuse_connections=False)
        raise
