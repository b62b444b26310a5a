"""Every Redis key and queue name of the scheduler, in one place.

Python formats them with :class:`Keys`; the scripts call the Lua functions that :func:`lua_keys`
makes of the same table, so a key is spelled once.
"""

from __future__ import annotations

from typing import Final

#: Keys of the scheduler's own state, below the prefix (``scheduler:`` by default).
STATE: Final = {
    "node_info": "node:info:{}",
    "node_runtime": "node:runtime:{}",
    "node_jobs": "node:jobs:{}",
    "nodes": "nodes",
    "pools": "pools",
    "pool_members": "pool:{}:members",
    "pool_free": "pool:{}:free",
    "pool_langs": "pool:{}:langs",
    # The same two, narrowed to the nodes of a pool that have a capability: pool, capability.
    "capable_members": "pool:{}:members:{}",
    "capable_free": "pool:{}:free:{}",
    "lang": "lang:{}",  # "src:tgt"
    "lang_speakers": "lang:{}:in:{}",  # "src:tgt", pool: who says that the pool serves the pair
    "job": "job:{}",
    "job_id_seq": "job:id_seq",
    "task": "task:{}",  # the latest job of a task id
    "session": "session:{}",
}

#: Lists of messages. Their names are queues of Celery's, so they stand below the broker's
#: global key prefix and not below the scheduler's.
QUEUES: Final = {
    "node_queue": "minsched.node.{}",
    "job_queue": "minsched.job.{}",
    # kombu's unacked_key, unacked_index_key and unacked_mutex_key of a node's worker
    "node_unacked": "minsched.unacked.{}",
    "node_unacked_index": "minsched.unacked_index.{}",
    "node_unacked_mutex": "minsched.unacked_mutex.{}",
}


class Keys:
    """Formats keys: ``keys("node_info", "gpu-1")`` is ``scheduler:node:info:gpu-1``.

    ``queue_prefix`` is kombu's ``global_keyprefix``. It stands before all keys, so that two
    installations that share a Redis by it stay apart.
    """

    def __init__(self, prefix: str = "scheduler", queue_prefix: str = "") -> None:
        self.prefix = f"{queue_prefix}{prefix}:"
        self.queue_prefix = queue_prefix

    def __call__(self, name: str, *parts: str) -> str:
        """The key ``name`` for these ids; ``KeyError`` for a name that is in no table."""
        if name in QUEUES:
            return self.queue_prefix + QUEUES[name].format(*parts)
        return self.prefix + STATE[name].format(*parts)


def queue_name(node_id: str) -> str:
    """The Celery queue that only this node consumes."""
    return QUEUES["node_queue"].format(node_id)


def node_of_queue(queue: str) -> str | None:
    """The node whose queue this is, ``None`` for any other queue."""
    head, _, node_id = queue.partition("minsched.node.")
    return node_id if node_id and not head else None


def lua_keys() -> str:
    """Lua source of a table ``key`` of functions; the prefixes come in as KEYS[1] and KEYS[2]."""
    lines = ["local key = {}"]
    for table, prefix in ((STATE, "KEYS[1]"), (QUEUES, "KEYS[2]")):
        for name, template in table.items():
            args = [f"p{n}" for n in range(template.count("{}"))]
            pieces = [f"'{piece}'" for piece in template.split("{}")]
            joined = [prefix, pieces[0]]
            for arg, piece in zip(args, pieces[1:], strict=True):
                joined += [arg, piece]
            body = " .. ".join(part for part in joined if part != "''")
            lines.append(f"function key.{name}({', '.join(args)}) return {body} end")
    return "\n".join(lines)
