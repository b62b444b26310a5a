"""Loads the Lua scripts and calls them by EVALSHA.

A script may name includes, one a line: ``-- include: node``. The loader puts an include where it is
first named. It leaves out the functions that the script does not call, since Redis makes all
functions of a script anew at each call. A script that often ends early names the includes that it
needs only later below that place. The loader writes a number in place of its name, if the name is
in capitals: Lua allows a script 200 local names. Keys are written ``key.node_jobs(node_id)``, and
spelled out by :func:`celery_minsched.core.keys.spell_keys`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError, ReadOnlyError

from .keys import Keys, spell_keys

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
#: A function of an include, on one line or up to the next "end" that is not indented.
_FUNCTION = re.compile(r"^local function (\w+)\((?:[^\n]* end$|.*?^end$)", re.MULTILINE | re.DOTALL)
#: A number with a name, and the comment behind it.
_NUMBER = re.compile(r"^local ([A-Z_]+) = (\d+) *(?:--.*)?\n", re.MULTILINE)


def _joined(path: str, seen: set[str]) -> str:
    """The text of a file with its includes, or nothing if the file is in ``seen``."""
    if path in seen:
        return ""
    seen.add(path)
    return _INCLUDE.sub(lambda found: _joined(f"include/{found[1]}", seen), _read(path))


def _read(name: str) -> str:
    return (files("celery_minsched") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _without_unused(text: str) -> str:
    """``text`` without the functions that it does not call; a call is below what it calls."""
    for function in reversed(list(_FUNCTION.finditer(text))):
        below = re.sub(r"--.*", "", text[function.end() :])
        if not re.search(rf"\b{function[1]}\b", below):
            text = text[: function.start()] + text[function.end() :]
    return text


def _with_numbers(text: str) -> str:
    """``text`` with its numbers in place of their names."""
    numbers = dict(_NUMBER.findall(text))
    names = "|".join(numbers)
    if not names:
        return text
    return re.sub(rf"\b({names})\b", lambda name: numbers[name[1]], _NUMBER.sub("", text))


def names() -> list[str]:
    """The names of all scripts."""
    lua = (files("celery_minsched") / "lua").iterdir()
    return sorted(entry.name.removesuffix(".lua") for entry in lua if entry.name.endswith(".lua"))


@cache
def source(name: str) -> str:
    """The whole Lua text of script ``name``."""
    return spell_keys(_with_numbers(_without_unused(_joined(name, set()))))


@cache
def sha(name: str) -> str:
    """The SHA1 by which Redis knows script ``name``."""
    return hashlib.sha1(source(name).encode()).hexdigest()


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
