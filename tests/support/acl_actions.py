"""Actions of a Redis user. The table in docs/security.md has a row for each."""

from __future__ import annotations

from collections.abc import Callable

import redis

from celery_minsched import MinimalSchedulerService

from .desk import Desk

REPLIES = "b9d0a2a4-1c55-3a3b-9a2f-0d1f3c2b4a55.reply.celery.pidbox"
Call = Callable[[redis.Redis], object]


def desk(client: redis.Redis) -> Desk:
    return Desk(MinimalSchedulerService(client))


def fill(admin: redis.Redis) -> None:
    """Two jobs at a node and one in line, a dead node, a result, a reply of a worker, and keys that
    belong to no role.
    """
    fleet = desk(admin)
    fleet.node("n1")
    fleet.send_many([{}, {}, {}])
    admin.hset("minsched.unacked.n1", "tag", '[{"body": "secret"}, "", "minsched.node.n1"]')
    admin.zadd("scheduler:rescues", {"dead": 1})
    admin.set("celery-task-meta-1", "result")
    admin.lpush(REPLIES, "{}")
    for name in ("other", "unacked", "_kombu.binding.other", "my.reply.celery.pidbox.cache"):
        admin.hset(name, "of", "another program")
    admin.lpush("celery", "{}")


def rows(answer: object) -> object:
    """The rows of the table."""
    assert answer
    return answer


def subscribe(client: redis.Redis, command: str, channel: str) -> None:
    with client.pubsub() as pubsub:
        pubsub.execute_command(command, channel)
        pubsub.parse_response()


def select(client: redis.Redis) -> None:
    with client.client() as pinned:
        try:
            pinned.execute_command("SELECT", 1)
        finally:
            pinned.connection.disconnect()


#: Actions by the first cell of the row.
ACTIONS: dict[str, Call] = {
    # Work
    "send a task": lambda r: desk(r).send(),
    "free the slot of a task that could not be sent": lambda r: desk(r).service.release_job(":1"),
    "read a result": lambda r: rows(r.get("celery-task-meta-1")),
    "store a result": lambda r: r.set("celery-task-meta-2", "{}"),
    "delete a result": lambda r: r.delete("celery-task-meta-1"),
    "send commands to workers (`revoke`, `shutdown`)": lambda r: r.publish(
        "/0.celery.pidbox", "{}"
    ),
    "read the answers of workers": lambda r: rows(r.brpop([REPLIES], 1)),
    "listen to commands, as a worker does": lambda r: subscribe(r, "SUBSCRIBE", "/0.celery.pidbox"),
    "listen to Celery's events": lambda r: subscribe(r, "PSUBSCRIBE", "/0.celeryev/*"),
    # Messages
    "take a waiting message (`BRPOP`)": lambda r: rows(r.brpop(["minsched.job.:3"], 1)),
    "put a message in a node's queue": lambda r: r.lpush("minsched.node.n1", "{}"),
    "read a queue (`LRANGE`)": lambda r: rows(r.lrange("minsched.node.n1", 0, -1)),
    "read the messages that a node has taken": lambda r: rows(r.hgetall("minsched.unacked.n1")),
    "take jobs from a queue, as a node does": lambda r: r.blmove(
        "minsched.node.n1", "minsched.taken.n1", 1
    ),
    # The fleet
    "read a record of a node or a job": lambda r: rows(r.hgetall("scheduler:node:info:n1")),
    "list the events (`events`)": lambda r: rows(r.xrevrange("scheduler:events", count=1)),
    "change a record of a node or a job": lambda r: r.hset("scheduler:job::1", "status", "lost"),
    "register a node": lambda r: desk(r).node("mine"),
    "claim a job": lambda r: desk(r).service.claim_job(":1", "n1"),
    "drain a node": lambda r: desk(r).service.drain_node("n1"),
    "pause a pool": lambda r: desk(r).service.pause_pool("asr"),
    "map a language pair to a pool": lambda r: desk(r).service.set_language_pools(
        "zh", "en", ["asr"]
    ),
    "claim the rescue of a dead node": lambda r: desk(r).service.claim_rescue(),
    "run a script of its own (`EVAL`)": lambda r: r.eval("return 1", 0),
    # The server
    "read `INFO`": lambda r: r.info(),
    "list the names of all keys (`SCAN`)": lambda r: r.scan(),
    "list the names of all keys (`KEYS`)": lambda r: r.keys(),
    "read another program's key": lambda r: r.hgetall("other"),
    "write another program's key": lambda r: r.hset("other", "of", "mine"),
    "delete another program's key": lambda r: r.delete("other"),
    "write another program's key by a script": lambda r: r.eval(
        "return redis.call('HSET', 'other', 'of', 'mine')", 0
    ),
    "read a key of another program that looks like Celery's": lambda r: r.hgetall(
        "my.reply.celery.pidbox.cache"
    ),
    "change a binding of another queue": lambda r: r.delete("_kombu.binding.other"),
    "change the index of messages that plain workers have taken": lambda r: r.zadd(
        "unacked_index", {"tag": 1}
    ),
    "read the messages that plain workers have taken": lambda r: r.hgetall("unacked"),
    "send to a queue of plain workers": lambda r: r.lpush("celery", "{}"),
    "publish on another channel": lambda r: r.publish("other", "{}"),
    "leave database 0 (`SELECT`)": select,
    "read the configuration": lambda r: r.config_get("requirepass"),
    "change the configuration": lambda r: r.config_set("maxmemory", 1),
    "change the roles": lambda r: r.execute_command("ACL", "SETUSER", "viewer", "+@all"),
    "watch the commands of other clients (`MONITOR`)": lambda r: r.execute_command("MONITOR"),
    "forget the scripts (`SCRIPT FLUSH`)": lambda r: r.script_flush(),
    "load a function (`FUNCTION LOAD`)": lambda r: r.function_load("#!lua name=x\n"),
    "delete all (`FLUSHALL`)": lambda r: r.flushall(),
    "copy the data (`REPLICAOF`)": lambda r: r.execute_command("REPLICAOF", "127.0.0.1", "1"),
    "stop the server (`SHUTDOWN`)": lambda r: r.execute_command("SHUTDOWN", "NOSAVE"),
}
