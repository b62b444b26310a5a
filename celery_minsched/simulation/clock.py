"""The scheduler by a clock that is told what time it is.

The scripts are the real ones. Where they ask the server for its time they are given that of the
simulation, as a third key. (What Redis lets expire by itself goes by its own clock all the same.)
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import redis

from ..core import lua_source, scripts
from ..core.field_types import MAX_SLOTS
from ..core.models import DispatchRequest
from ..core.scheduler import MinimalSchedulerService
from ..core.settings import Settings
from ..core.texts import text

#: When a simulation begins, seconds since the epoch: a node that was heard of at 0 has no record.
EPOCH = 1_000_000_000.0
FOREVER = 1e9  # seconds

_SCRIPTS = ("register_node", "heartbeat", "dispatch_task", "claim_job", "complete_task")
_CLOCK = "redis.call('TIME')"  # in lua/include/context.lua; seconds and microseconds
_GIVEN = "{0, KEYS[3]}"


@cache
def _source(name: str) -> str:
    text = lua_source.source(name)
    if text.count(_CLOCK) != 1:
        raise RuntimeError(f"{name}.lua does not ask for the time once, by {_CLOCK}")
    return text.replace(_CLOCK, _GIVEN)


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(_source(name).encode()).hexdigest()


class VirtualScheduler(MinimalSchedulerService):
    """What nodes and publishers ask of Redis, at the time ``now``; in pipelines, for speed.

    Nodes do not die and lines have no end. Times are seconds after the begin of the simulation.
    """

    def __init__(self, client: redis.Redis) -> None:
        times = Settings(
            node_ttl=FOREVER, lease=FOREVER, history_ttl=2 * FOREVER, max_waiting=10**9
        )
        super().__init__(client, times)
        self.now = 0.0
        for name in _SCRIPTS:
            client.script_load(_source(name))

    def dispatch_in(self, pipe: Any, request: DispatchRequest, message: tuple[str, str]) -> None:
        """Put a dispatch in a pipeline; its answer is a list of one, see ``dispatch_task.lua``."""
        [args] = self._arguments_of([(request, message)])
        self._put(pipe, "dispatch_task", jobs=[args])

    def claim_job_in(self, pipe: Any, job_id: str, node_id: str) -> None:
        """Put the claim of a job that has come to its node in a pipeline."""
        given = {"delivery_tag": job_id, "claim": job_id, "taken": "false"}
        self._put(pipe, "claim_job", job_id=job_id, node_id=node_id, **given)

    def complete_in(self, pipe: Any, job_id: str, node_id: str, task_id: str) -> None:
        """Put the end of a job in a pipeline, the removal of what is kept of it, and a look at what
        has come to the node. That, a list, is the last of the three answers.
        """
        given = {"status": "finished", "reason": "", "delivery_tag": job_id}
        given |= {"claim": "", "next_claim": ""}
        self._put(pipe, "complete_task", job_id=job_id, node_id=node_id, **given)
        pipe.delete(self.keys("job", job_id), self.keys("task", task_id))
        pipe.lpop(self.keys("node_queue", node_id), MAX_SLOTS)

    def _call(self, name: str, /, **given: Any) -> list[Any]:
        answer: list[Any] = text(self._put(self.redis, name, **given))
        return answer

    def _put(self, client: Any, name: str, /, **given: Any) -> Any:
        time = round((EPOCH + self.now) * 1e6)
        prefixes = (self.keys.prefix, self.keys.queue_prefix)
        args = scripts.in_order(name, times=self._times, **given)
        return client.evalsha(_sha(name), 3, *prefixes, time, *args)
