"""The content of each key of :mod:`.keys`. docs/protocol.md shows this table."""

from __future__ import annotations

from typing import Final

from .models import DESCRIPTION_FIELDS

#: By the name of a key: the names of its ids, its type in Redis, and its content.
HOLDS: Final = {
    "layout": (
        (),
        "string",
        "the number of this layout. A version with another layout refuses to start",
    ),
    "times": (
        (),
        "string",
        "the fleet's times: `node_ttl`, `lease`, `history_ttl` and `session_ttl` in ms, and "
        "`max_rescues`",
    ),
    "node_info": (
        ("node",),
        "hash",
        "a node: `online`, `draining` (`true` or `false`), `state`, `instance`, `max_jobs`, "
        "`concurrency`, `offers`, `speaks`, `load_json`, `load`, `turn`, `turn_base`, `term`, "
        "`suspects`, `last_heartbeat_ts`, `registered_ts`, `unread`, `unread_ms`, `stuck_until`, "
        "`interval_ms`, `served <pool>`, and texts for operators: "
        + ", ".join(f"`{name}`" for name in DESCRIPTION_FIELDS),
    ),
    "node_runtime": (("node",), "hash", "`current_jobs`, the number of the node's jobs"),
    "node_jobs": (
        ("node",),
        "sorted set",
        "the jobs that hold the node's slots, by the end of their lease",
    ),
    "nodes": (
        (),
        "sorted set",
        "nodes by their last heartbeat. The score of a dead node is negative",
    ),
    "pools": ((), "set", "the pools that have nodes"),
    "pool_members": (("pool",), "set", "the pool's nodes"),
    "pool_free": (
        ("pool",),
        "sorted set",
        "the pool's nodes that are online, not draining and have a free slot, in load order",
    ),
    "pool_langs": (
        ("pool",),
        "set",
        "the language pairs that the pool lists. Without this key the pool serves all pairs",
    ),
    "capable_members": (
        ("pool", "capability"),
        "set",
        "the pool's nodes that have the capability",
    ),
    "capable_free": (
        ("pool", "capability"),
        "sorted set",
        "the nodes of `pool_free` that have the capability, in load order",
    ),
    "lang": (("src:tgt",), "set", "the pools that serve the pair"),
    "lang_speakers": (
        ("src:tgt", "pool"),
        "set",
        "the nodes that make the pool serve the pair, and `*` for `set_language_pools`",
    ),
    "job": (
        ("job",),
        "hash, TTL",
        "a job: `status` (`parked`, `waiting`, `delayed`, `dispatched`, `running`, `finished`, "
        "`failed`, `lost`), `node_id`, `pool`, `chosen_by`, `reason`, `created_ts`, "
        "`dispatched_ts`, `started_ts`, `ended_ts`, `payload_json`, `places`, the fields of its "
        "demand, and `successor`, a later job of its task",
    ),
    "job_id_seq": ((), "string", "the number of the latest job"),
    "task": (("task",), "string, TTL", "the latest job of a task id. It expires with that job"),
    "session": (("session",), "hash, TTL", "`node_id`, `preferred_pool`, `last_lang_pair`"),
    "turn": (
        (),
        "string",
        "a counter: its values order the nodes by when they were last chosen and the pools of a "
        "node by when they were last served, and number the nodes' terms",
    ),
    "lines": (
        (),
        "hash",
        "the lines in which jobs wait. The value lists the indexes that contain the line, as "
        "`offers` does",
    ),
    "waiting": (
        ("line",),
        "sorted set",
        "the jobs in line, by place. A line's name is `where/capabilities/required node`",
    ),
    "waiting_counts": ((), "hash", "the number of jobs in line, by their `where`"),
    "pool_turns": (
        ("pool", "priority"),
        "sorted set, TTL",
        "fair turns: `now` is the virtual time, `of <key>` is the next turn of a fairness key, and "
        "`in <key>` is the number of its jobs in line, above all turns",
    ),
    "lang_turns": (
        ("src:tgt", "priority"),
        "sorted set, TTL",
        "the same for the jobs that wait for a language pair, in any pool",
    ),
    "pool_waiting": (
        ("pool",),
        "sorted set",
        "the lines without capabilities that the pool's nodes may serve, by the place of their "
        "first job",
    ),
    "capable_waiting": (
        ("pool", "capability"),
        "sorted set",
        "the same for the lines that need this capability, and maybe others",
    ),
    "node_waiting": (
        ("node",),
        "sorted set",
        "the lines that wait only for this node, by the place of their first job",
    ),
    "node_searches": (
        ("node",),
        "hash, TTL",
        "the progress of a search through an index that has more lines than one call reads. `end`: "
        "the search found no line",
    ),
    "lang_waiting": (("src:tgt",), "set", "the lines that wait for the pair"),
    "pool_langs_waiting": (("pool",), "set", "the lines that wait for a pair in this pool"),
    "relinking": (
        (),
        "hash",
        "the lines whose indexes must be made again after a change, and the progress. The pools of "
        "a language pair changed, or the node for which the lines wait",
    ),
    "delayed": ((), "sorted set", "delayed jobs, by their due time"),
    "expiring": ((), "sorted set", "jobs without a slot that expire, by the time of expiry"),
    "alarm": (
        (),
        "hash, TTL",
        "the node that must send a heartbeat for the next delayed job, and when",
    ),
    "heard": (
        (),
        "hash, TTL",
        "heartbeats of any node: `last` is the last one, `since` is when they began to arrive, "
        "`missed` is when they stopped, and `set_back` is when the clock was set back",
    ),
    "rescues": ((), "sorted set", "nodes whose jobs need a rescue, by the time of the next try"),
    "lost": (
        (),
        "sorted set",
        "lost jobs whose callers need an error, by the time of the next try",
    ),
    "paused": ((), "set", "pools that an operator has paused"),
    "events": ((), "stream", "the latest events"),
    "counts": ((), "hash", "counters that belong to no pool"),
    "pool_counts": (("pool",), "hash", "the pool's counters, with a TTL if it has no node"),
    "node_queue": (("node",), "list", "the node's messages. The next message is at the right"),
    "job_queue": (("job",), "list", "the message of a job that has no slot"),
    "node_unacked": (
        ("node",),
        "hash",
        "the messages that the worker has taken: kombu's `unacked_key`",
    ),
    "node_unacked_index": (("node",), "sorted set", "kombu's `unacked_index_key`"),
    "node_unacked_mutex": (("node",), "string", "kombu's `unacked_mutex_key`"),
    "node_taken": (
        ("node",),
        "list",
        "the message that the node takes from its queue, until it is in `node_unacked`",
    ),
    "node_acked": (
        ("node",),
        "set",
        "the messages in `node_unacked` that the node has acknowledged, until their jobs end",
    ),
}
