"""Every Redis key and queue name of the scheduler, in one place.

Python formats them with :class:`Keys`. :mod:`.lua_source` spells them out in the scripts by the
same tables, so each key is spelled once.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Sequence
from typing import Final

#: kombu's defaults for the transport options of the same names (seen in kombu 5.7).
PRIORITY_STEPS: Final = (0, 3, 6, 9)
SEP: Final = "\x06\x16"

#: Keys of the scheduler's own state, below the prefix (``scheduler:`` by default).
STATE: Final = {
    "layout": "layout",  # the number of all that follows, see celery_minsched/core/layout.py
    "times": "times",  # the fleet's, see celery_minsched/core/times.py
    "node_info": "node:info:{}",
    "node_runtime": "node:runtime:{}",
    "node_jobs": "node:jobs:{}",
    "nodes": "nodes",
    "pools": "pools",
    "pool_members": "pool:{}:members",
    "pool_free": "pool:{}:free",
    "pool_langs": "pool:{}:langs",
    "capable_members": "pool:{}:members:{}",
    "capable_free": "pool:{}:free:{}",
    "lang": "lang:{}",
    "lang_speakers": "lang:{}:in:{}",
    "job": "job:{}",
    "job_id_seq": "job:id_seq",
    "task": "task:{}",
    "session": "session:{}",
    "turn": "turn",
    # A line is named by what must be true of the node, see lua/include/line_index.lua.
    "lines": "lines",
    "waiting": "waiting:{}",
    "waiting_counts": "waiting_counts",
    "pool_turns": "pool:{}:turns:{}",  # see lua/include/fair_queue.lua
    # The indexes of lines: for the slots of a pool, or of one node; and for a change of the pools
    # that serve a pair, or of the pairs that a pool lists.
    "pool_waiting": "pool:{}:waiting",
    "capable_waiting": "pool:{}:waiting:{}",
    "node_waiting": "node:waiting:{}",
    "node_searches": "node:searches:{}",  # see lua/include/assignment.lua
    "lang_waiting": "lang:{}:waiting",
    "lang_turns": "lang:{}:turns:{}",
    "pool_langs_waiting": "pool:{}:langs:waiting",
    "relinking": "relinking",  # see lua/include/reindex.lua
    "delayed": "delayed",
    "expiring": "expiring",
    "alarm": "alarm",
    "heard": "heard",
    "rescues": "rescues",
    "lost": "lost",
    "paused": "paused",
    # What happened, for those who watch; see lua/include/events.lua.
    "events": "events",
    "counts": "counts",
    "pool_counts": "pool:{}:counts",
}

#: Lists of messages. Their names are queues of Celery's, so they stand below the broker's
#: global key prefix and not below the scheduler's.
QUEUES: Final = {
    "node_queue": "minsched.node.{}",
    "job_queue": "minsched.job.{}",
    "node_unacked": "minsched.unacked.{}",
    "node_unacked_index": "minsched.unacked_index.{}",
    "node_unacked_mutex": "minsched.unacked_mutex.{}",
    "node_taken": "minsched.taken.{}",
    "node_acked": "minsched.acked.{}",
}

#: Of each key its ids, its type in Redis, and what it holds: docs/protocol.md is made of it.
HOLDS: Final = {
    "layout": (
        (),
        "string",
        "the number of this layout; a version that knows another refuses to start",
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
        "what a node is: `online`, `draining` (`true` or `false`), `state`, `instance`, "
        "`max_jobs`, `concurrency`, `cap_json`, `pools_json`, `offers`, `speaks`, `load_json`, "
        "`load`, `turn`, `turn_base`, `term`, `suspects`, `last_heartbeat_ts`, `registered_ts`, "
        "`unread`, `unread_ms`, `stuck_until`, `interval_ms`, `served <pool>`",
    ),
    "node_runtime": (("node",), "hash", "`current_jobs`, the size of the next"),
    "node_jobs": (
        ("node",),
        "sorted set",
        "the jobs that hold the node's slots, by the end of their lease",
    ),
    "nodes": ((), "sorted set", "nodes by last heartbeat; negative once found silent"),
    "pools": ((), "set", "the pools that have nodes"),
    "pool_members": (("pool",), "set", "the pool's nodes"),
    "pool_free": (
        ("pool",),
        "sorted set",
        "those that are online, not draining and have a free slot, in load order",
    ),
    "pool_langs": (("pool",), "set", "the language pairs it lists; none: it is not asked for them"),
    "capable_members": (("pool", "capability"), "set", "those of the pool that have a capability"),
    "capable_free": (("pool", "capability"), "sorted set", "the free ones of these, in load order"),
    "lang": (("src:tgt",), "set", "the pools that serve the pair"),
    "lang_speakers": (
        ("src:tgt", "pool"),
        "set",
        "who says so: nodes, and `*` for `set_language_pools`",
    ),
    "job": (
        ("job",),
        "hash, TTL",
        "a job: `status` (`parked`, `waiting`, `delayed`, `dispatched`, `running`, `finished`, "
        "`failed`, `lost`), `node_id`, `pool`, `chosen_by`, `reason`, `created_ts`, "
        "`dispatched_ts`, `started_ts`, `ended_ts`, `payload_json`, `places`, what it asked for, "
        "`successor`, a later job of its task, and `next_job`, the job that the answer to its end "
        "brought",
    ),
    "job_id_seq": ((), "string", "the number of the latest job"),
    "task": (("task",), "string, TTL", "the latest job of a task id; lapses with it"),
    "session": (("session",), "hash, TTL", "`node_id`, `preferred_pool`, `last_lang_pair`"),
    "turn": (
        (),
        "string",
        "counts up: which node was chosen longest ago, which of its pools a node served, its term",
    ),
    "lines": (
        (),
        "hash",
        "the lines in which jobs wait, each with the indexes in which it is filed, as `offers`",
    ),
    "waiting": (
        ("line",),
        "sorted set",
        "jobs in line, by place. A line is `where/capabilities/required node`",
    ),
    "waiting_counts": ((), "hash", "the number of jobs in line, by what they ask for: `where`"),
    "pool_turns": (
        ("pool", "priority"),
        "sorted set, TTL",
        "fair turns: the virtual time, `now`, the next turn of each fairness key, `of <key>`, and "
        "the number of its jobs in line, `in <key>`, above all turns",
    ),
    "lang_turns": (
        ("src:tgt", "priority"),
        "sorted set, TTL",
        "the same of the jobs that wait for a language pair, in any pool",
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
        "the same of lines that ask for this capability, and maybe for others",
    ),
    "node_waiting": (
        ("node",),
        "sorted set",
        "the lines that wait for this node alone, by the place of the first job",
    ),
    "node_searches": (
        ("node",),
        "hash, TTL",
        "how far a search has come through an index of more lines than one call looks at; `end`: "
        "it found none",
    ),
    "lang_waiting": (("src:tgt",), "set", "the lines that wait for the pair"),
    "pool_langs_waiting": (("pool",), "set", "those that wait for a pair of this pool"),
    "relinking": (
        (),
        "hash",
        "which lines are yet to be filed anew after a change of the pools of a language pair, or "
        "of the node for which they wait, and how far that has come",
    ),
    "delayed": ((), "sorted set", "delayed jobs by due time"),
    "expiring": ((), "sorted set", "jobs at no node by when they expire"),
    "alarm": ((), "hash, TTL", "which node was asked to be heard when, for the next delayed job"),
    "heard": (
        (),
        "hash, TTL",
        "heartbeats of any node: the `last`, and `since` when they come in; since when they were "
        "`missed`; when the clock was found `set_back`",
    ),
    "rescues": ((), "sorted set", "nodes whose jobs are to be rescued, by when to look again"),
    "lost": ((), "sorted set", "lost jobs whose callers are to be told, by when to try"),
    "paused": ((), "set", "pools that an operator has paused"),
    "events": ((), "stream", "what happened; bounded"),
    "counts": ((), "hash", "counters of what is of no pool"),
    "pool_counts": (("pool",), "hash", "counters of a pool; with a TTL once it has no node"),
    "node_queue": (("node",), "list", "the node's messages; the next is at the right"),
    "job_queue": (("job",), "list", "the message of a job that is at no node"),
    "node_unacked": (
        ("node",),
        "hash",
        "the messages that its worker has taken: kombu's `unacked_key`",
    ),
    "node_unacked_index": (("node",), "sorted set", "kombu's `unacked_index_key`"),
    "node_unacked_mutex": (("node",), "string", "kombu's `unacked_mutex_key`"),
    "node_taken": (
        ("node",),
        "list",
        "the message that it takes from its queue, until it is noted as unacknowledged",
    ),
    "node_acked": (
        ("node",),
        "set",
        "the messages in its book that it has acknowledged, kept until the job ends",
    ),
}


#: Below these an id may hold colons (a job's, a session's, a task's, a line's); no other may.
_WITH_COLONS: Final = ("job:", "session:", "task:", "waiting:", "minsched.job.")


def _pattern(template: str) -> re.Pattern[str]:
    """What the keys of a template look like."""
    ids = ["(.+)" if template.startswith(_WITH_COLONS) else "([^:]+)"] * template.count("{}")
    if template.startswith("lang:"):
        ids[0] = "([^:]+:[^:]+)"
    pieces = [re.escape(piece) for piece in template.split("{}")]
    return re.compile("".join(map("".join, zip(pieces, [*ids, ""], strict=True))), re.DOTALL)


_Patterns = dict[str, list[tuple[str, re.Pattern[str]]]]


def _patterns(templates: dict[str, str]) -> _Patterns:
    """Patterns by the first word of their keys; those that say most first, since ids match much."""
    patterns: _Patterns = {}
    for name, template in sorted(templates.items(), key=lambda item: -len(item[1])):
        patterns.setdefault(_first_word(template), []).append((name, _pattern(template)))
    return patterns


def _first_word(key: str) -> str:
    """What stands before the first id: of a queue's name it has a dot in it."""
    return key.partition(":")[0] if not key.startswith("minsched.") else key[: key.find(".", 9)]


_PATTERNS: Final = _patterns(STATE)
_QUEUE_PATTERNS: Final = _patterns(QUEUES)


class Keys:
    """Formats keys: ``keys("node_info", "gpu-1")`` is ``scheduler:node:info:gpu-1``.

    ``queue_prefix`` is kombu's ``global_keyprefix``. It stands before all keys, so that two
    installations that share a Redis by it stay apart. ``priority_steps`` and ``sep`` are kombu's
    transport options, by which it names a queue's list for a priority.
    """

    def __init__(
        self,
        prefix: str = "scheduler",
        queue_prefix: str = "",
        priority_steps: Sequence[int] = PRIORITY_STEPS,
        sep: str = SEP,
    ) -> None:
        #: The prefix for a client that sets ``queue_prefix`` before each key by itself.
        self.own_prefix = f"{prefix}:"
        self.prefix = queue_prefix + self.own_prefix
        self.queue_prefix = queue_prefix
        self.sep = sep
        self._steps = sorted(priority_steps)
        #: What kombu appends to a queue's name for each of its priority steps, first to last.
        self.suffixes = ["" if step == 0 else f"{sep}{step}" for step in self._steps]

    def priority_step(self, priority: int) -> int:
        """Index of the priority step to which kombu's ``Channel.priority`` (5.7) maps a priority of
        0 to 9.
        """
        return (bisect(self._steps, min(max(priority, 0), 9)) - 1) % len(self._steps)

    def priority_suffix(self, priority: int) -> str:
        """What kombu appends to a queue's name for this priority."""
        return self.suffixes[self.priority_step(priority)]

    def __call__(self, name: str, *parts: str) -> str:
        """The key ``name`` for these ids; ``KeyError`` for a name that is in no table."""
        if name in QUEUES:
            return self.queue_prefix + QUEUES[name].format(*parts)
        return self.prefix + STATE[name].format(*parts)

    def parse(self, key: str) -> tuple[str, tuple[str, ...], str] | None:
        """The name and the ids of which :meth:`__call__` makes this key, and the suffix of a list
        of messages; ``None`` for a key that is not the scheduler's.
        """
        patterns, suffix = _PATTERNS, ""
        if key.startswith(self.prefix):
            text = key.removeprefix(self.prefix)
        elif key.startswith(self.queue_prefix):
            patterns = _QUEUE_PATTERNS
            text = key.removeprefix(self.queue_prefix)
            suffix = next((end for end in self.suffixes if end and text.endswith(end)), "")
            text = text.removesuffix(suffix)
        else:
            return None
        for name, pattern in patterns.get(_first_word(text), ()):
            if found := pattern.fullmatch(text):
                return name, found.groups(), suffix
        return None


def job_queue_name(job_id: str) -> str:
    """The list in which a parked job's message lies."""
    return QUEUES["job_queue"].format(job_id)


def queue_name(node_id: str) -> str:
    """The Celery queue that only this node consumes."""
    return QUEUES["node_queue"].format(node_id)


def node_of_queue(queue: str) -> str | None:
    """The node whose queue this is, ``None`` for any other queue."""
    head, _, node_id = queue.partition("minsched.node.")
    return node_id if node_id and not head else None
