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
    "layout": "layout",  # see celery_minsched/core/layout.py
    "times": "times",  # see celery_minsched/core/times.py
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
    # The name of a line contains the requirements of its jobs, see lua/include/line_index.lua.
    "lines": "lines",
    "waiting": "waiting:{}",
    "waiting_counts": "waiting_counts",
    "pool_turns": "pool:{}:turns:{}",  # see lua/include/fair_queue.lua
    # Indexes of lines. A free slot of a pool or a node finds its lines in them, and so does a
    # change of the pools that serve a pair, or of the pairs that a pool lists.
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
    # For monitoring, see lua/include/events.lua.
    "events": "events",
    "counts": "counts",
    "pool_counts": "pool:{}:counts",
}

#: Lists of messages. Celery's queues have these names, so they begin with the broker's global key
#: prefix and not with the scheduler's.
QUEUES: Final = {
    "node_queue": "minsched.node.{}",
    "job_queue": "minsched.job.{}",
    "node_unacked": "minsched.unacked.{}",
    "node_unacked_index": "minsched.unacked_index.{}",
    "node_unacked_mutex": "minsched.unacked_mutex.{}",
    "node_taken": "minsched.taken.{}",
    "node_acked": "minsched.acked.{}",
}


#: Keys whose ids may contain colons: keys of jobs, sessions, tasks and lines.
_WITH_COLONS: Final = ("job:", "session:", "task:", "waiting:", "minsched.job.")


def _pattern(template: str) -> re.Pattern[str]:
    """The pattern that the keys of a template match."""
    ids = ["(.+)" if template.startswith(_WITH_COLONS) else "([^:]+)"] * template.count("{}")
    if template.startswith("lang:"):
        ids[0] = "([^:]+:[^:]+)"
    pieces = [re.escape(piece) for piece in template.split("{}")]
    return re.compile("".join(map("".join, zip(pieces, [*ids, ""], strict=True))), re.DOTALL)


_Patterns = dict[str, list[tuple[str, re.Pattern[str]]]]


def _patterns(templates: dict[str, str]) -> _Patterns:
    """Patterns by the first word of their keys. The longest template is first: ids match much."""
    patterns: _Patterns = {}
    for name, template in sorted(templates.items(), key=lambda item: -len(item[1])):
        patterns.setdefault(_first_word(template), []).append((name, _pattern(template)))
    return patterns


def _first_word(key: str) -> str:
    """The text before the first id. In the name of a queue it has a dot."""
    return key.partition(":")[0] if not key.startswith("minsched.") else key[: key.find(".", 9)]


_PATTERNS: Final = _patterns(STATE)
_QUEUE_PATTERNS: Final = _patterns(QUEUES)


class Keys:
    """Formats keys: ``keys("node_info", "gpu-1")`` is ``scheduler:node:info:gpu-1``.

    ``queue_prefix`` is kombu's ``global_keyprefix``. All keys begin with it, so two installations
    with different prefixes can share a Redis. ``priority_steps`` and ``sep`` are kombu's transport
    options. They make the names of a queue's lists, one for each priority step.
    """

    def __init__(
        self,
        prefix: str = "scheduler",
        queue_prefix: str = "",
        priority_steps: Sequence[int] = PRIORITY_STEPS,
        sep: str = SEP,
    ) -> None:
        #: The prefix for a client that adds ``queue_prefix`` to each key itself.
        self.own_prefix = f"{prefix}:"
        self.prefix = queue_prefix + self.own_prefix
        self.queue_prefix = queue_prefix
        self.sep = sep
        self._steps = sorted(priority_steps)
        #: The suffixes of a queue's lists, one for each priority step, first to last.
        self.suffixes = ["" if step == 0 else f"{sep}{step}" for step in self._steps]

    def priority_step(self, priority: int) -> int:
        """Index of the priority step to which kombu's ``Channel.priority`` (5.7) maps 0 to 9."""
        return (bisect(self._steps, min(max(priority, 0), 9)) - 1) % len(self._steps)

    def priority_suffix(self, priority: int) -> str:
        """The suffix of the queue's list for this priority."""
        return self.suffixes[self.priority_step(priority)]

    def __call__(self, name: str, *parts: str) -> str:
        """The key ``name`` for these ids. Raises ``KeyError`` for an unknown name."""
        if name in QUEUES:
            return self.queue_prefix + QUEUES[name].format(*parts)
        return self.prefix + STATE[name].format(*parts)

    def parse(self, key: str) -> tuple[str, tuple[str, ...], str] | None:
        """The name and the ids of a key, and the suffix if it is a list of messages.

        ``None`` for a key that is not the scheduler's.
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
            if match := pattern.fullmatch(text):
                return name, match.groups(), suffix
        return None


def job_queue_name(job_id: str) -> str:
    """The list that holds the message of a job without a slot."""
    return QUEUES["job_queue"].format(job_id)


def queue_name(node_id: str) -> str:
    """The Celery queue that only this node consumes."""
    return QUEUES["node_queue"].format(node_id)


def node_of_queue(queue: str) -> str | None:
    """The node of a node's queue, or ``None`` for any other queue."""
    head, _, node_id = queue.partition("minsched.node.")
    return node_id if node_id and not head else None
