"""The scheduler with a simulated clock.

The scripts get the simulated time as a third key instead of the server's time. Keys with a time to
live still expire by the server's clock.
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

#: The start of a simulation, in seconds since 1970. A heartbeat at time 0 would mean no heartbeat.
EPOCH = 1_000_000_000.0
FOREVER = 1e9  # seconds

_SCRIPTS = ("register_node", "heartbeat", "dispatch_task", "claim_job", "complete_task")
_CLOCK = "redis.call('TIME')"  # seconds and microseconds, in lua/include/context.lua
_SIMULATED = "{0, KEYS[3]}"


@cache
def _source(name: str) -> str:
    text = lua_source.source(name)
    if text.count(_CLOCK) != 1:
        raise RuntimeError(f"{name}.lua does not contain {_CLOCK} exactly once")
    return text.replace(_CLOCK, _SIMULATED)


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(_source(name).encode()).hexdigest()


class VirtualScheduler(MinimalSchedulerService):
    """Calls scripts at the simulated time ``now``, in seconds after the start of the simulation.

    Nodes do not die, and lines have no limit.
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
        """Add a dispatch to a pipeline. Its answer is a list of one, see ``dispatch_task.lua``."""
        [args] = self._arguments_of([(request, message)])
        self._put(pipe, "dispatch_task", jobs=[args])

    def claim_job_in(self, pipe: Any, job_id: str, node_id: str) -> None:
        """Add the claim of a job at its node to a pipeline."""
        arguments = {"delivery_tag": job_id, "claim": job_id, "taken": "false"}
        self._put(pipe, "claim_job", job_id=job_id, node_id=node_id, **arguments)

    def complete_in(self, pipe: Any, job_id: str, node_id: str, task_id: str) -> None:
        """Add the end of a job, the deletion of its keys, and a read of its node's queue.

        The pipeline has three answers. The last is the list of messages.
        """
        arguments = {"status": "finished", "reason": "", "delivery_tag": job_id}
        arguments |= {"claim": "", "next_claim": ""}
        self._put(pipe, "complete_task", job_id=job_id, node_id=node_id, **arguments)
        pipe.delete(self.keys("job", job_id), self.keys("task", task_id))
        pipe.lpop(self.keys("node_queue", node_id), MAX_SLOTS)

    def _call(self, name: str, /, **arguments: Any) -> list[Any]:
        answer: list[Any] = text(self._put(self.redis, name, **arguments))
        return answer

    def _put(self, client: Any, name: str, /, **arguments: Any) -> Any:
        time = round((EPOCH + self.now) * 1e6)
        prefixes = (self.keys.prefix, self.keys.queue_prefix)
        args = scripts.in_order(name, times=self._times, **arguments)
        return client.evalsha(_sha(name), 3, *prefixes, time, *args)
