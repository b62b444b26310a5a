"""One node: its slots, its pulse and its worker."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import redis
from kombu.utils.encoding import bytes_to_str

from celery_minsched import RegisterNodeRequest
from celery_minsched.plugin.plugin import MinSched

from .claims import Claims
from .endings import Endings
from .liveness import Liveness
from .pulse import Pulse
from .report import Report
from .requeue import give_up_queue
from .rescuer import Rescuer
from .revokes import RevokedResults, WaitingTasks
from .slots import Slots


class Node:
    """One node: its slots, its pulse and its worker. The application has it as ``app.node``."""

    def __init__(
        self, plugin: MinSched, registration: RegisterNodeRequest, pulse_client: redis.Redis
    ) -> None:
        self.node_id = registration.node_id
        self.rescuer = Rescuer(plugin)
        give_up = partial(give_up_queue, plugin, self.node_id)
        self.pulse = Pulse(plugin, registration, pulse_client, self.rescuer.wake, give_up)
        term = self.pulse.last_heartbeat.term
        self.slots = Slots(plugin.scheduler, self.node_id, term)
        self.claims = Claims(plugin.scheduler, self.slots)
        self.endings = Endings(plugin.scheduler, self.slots)
        self.waiting_tasks = WaitingTasks(plugin.scheduler, self.node_id, self.slots.outbox)
        self.revoked_results = RevokedResults(plugin.app)
        self._instance = registration.instance
        self._plugin = plugin
        self._slots_at_start = self._max_jobs = registration.max_jobs
        self.liveness = Liveness(plugin, self.slots, self.pulse, self.is_replaced)
        self._report = Report(registration.max_jobs, [], "stopping")
        self._controller: Any = None
        self._pool_at_start = self._concurrency = 0

    def on_ready(self, controller: Any) -> None:
        """Take jobs: the worker consumes now."""
        self._controller = controller
        self._pool_at_start = _pool_size(controller)
        self.slots.start()
        self.rescuer.start()
        self.liveness.start(controller.pool)
        self.pulse.report_from(self._look)

    @property
    def consumer(self) -> Any:
        """The worker's consumer, a ``NodeConsumer``."""
        return self._controller.consumer

    def is_replaced(self) -> bool:
        """Has another process taken this node's id? Then that process has its messages too."""
        redis, keys = self._plugin.scheduler.redis, self._plugin.scheduler.keys
        instance = bytes_to_str(redis.hget(keys("node_info", self.node_id), "instance") or "")
        return instance not in ("", self._instance)

    def on_shutting_down(self) -> None:
        """Hand back the jobs that have not begun: the worker finishes the others and stops."""
        if self.slots.closing:
            return
        self.slots.closing = True
        self.pulse.nudge()
        self.liveness.hand_back_soon()

    def stop(self) -> None:
        """Report the ended jobs, hand back the others and go offline: the worker has stopped."""
        self.rescuer.stop()
        self.liveness.stop()
        self.slots.stop()
        self.liveness.hand_back()
        self.pulse.stop()

    def describe(self) -> dict[str, Any]:
        """The node's state, for :mod:`celery_minsched.plugin.remote`."""
        report = self._report
        return {
            "node_id": self.node_id,
            "online": report.online,
            "state": report.state,
            "draining": self.pulse.last_heartbeat.draining,
            "max_jobs": report.max_jobs,
            "jobs": sorted(self.slots.held.copy()),
            "endings_to_tell": sum(held.has_ended for held in list(self.slots.held.values())),
            "seconds_since_heard": round(self.pulse.last_heartbeat.silence, 3),
        }

    def drain(self, draining: bool) -> None:
        """Ask the scheduler for no more jobs, or for jobs again. Does not block."""
        self.slots.drain(draining)

    def _look(self) -> Report:
        state = self.liveness.look()
        if not state:  # one more process of the pool is one more slot
            with suppress(AttributeError):  # celery's pool has stopped and has no size
                self._concurrency = _pool_size(self._controller)
                grown = self._concurrency - self._pool_at_start
                self._max_jobs = max(1, self._slots_at_start + grown)
        jobs = sorted(self.slots.held.copy()) if self.slots.is_synced else None
        self._report = Report(
            self._max_jobs,
            jobs,
            state,
            takes_at_once=self.liveness.takes_at_once,
            concurrency=max(1, self._concurrency),
        )
        return self._report


def _pool_size(controller: Any) -> int:
    """Processes or threads of the pool, or their maximum under autoscale."""
    autoscaler = getattr(controller, "autoscaler", None)
    return int(autoscaler.max_concurrency if autoscaler else controller.pool.num_processes)
