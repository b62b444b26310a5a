"""Finds out whether the node's worker works, and hands back the unstarted jobs if it does not.

The worker is stuck when it has not read its queue for ``minsched_node_ttl``: its event loop hangs,
or the connection over which it consumes is dead. A stuck worker starts no job, and the node hands
back the jobs that have not started. The worker works again as soon as it reads its queue.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celery_minsched.core.settings import SOCKET_TIMEOUT
from celery_minsched.plugin.plugin import MinSched

from .kombu_fetch import LONGEST_WAIT, ReliableChannel
from .placing import by_age
from .pulse import Pulse
from .report import State
from .requeue import park_messages
from .slots import Slots
from .watch import Watch

logger = logging.getLogger(__name__)


class Liveness:
    """Watches the worker, for the thread that reports to the pulse."""

    def __init__(
        self,
        plugin: MinSched,
        slots: Slots,
        pulse: Pulse,
        is_replaced: Callable[[], bool],
    ) -> None:
        settings = plugin.scheduler.settings
        self.watch = Watch(settings.node_ttl)
        self._grace = LONGEST_WAIT + min(SOCKET_TIMEOUT, settings.node_ttl / 2)
        self._plugin = plugin
        self._slots = slots
        self._pulse = pulse
        self._is_replaced = is_replaced
        self._pool: Any = None
        self._is_stuck = False
        #: The worker does not consume its own queue: it got ``cancel_consumer``.
        self._is_paused = False
        self._handing_back: threading.Thread | None = None

    def start(self, pool: Any) -> None:
        """The worker consumes, and runs its tasks in ``pool``."""
        self._pool = pool
        self.watch.note()

    @property
    def takes_at_once(self) -> bool:
        """Does the worker take each message as it comes? Not while a task is in its loop."""
        return self.watch.takes_at_once and not self._is_paused and not self._is_in_task()

    def look(self) -> State:
        """Why the worker takes no jobs, "" if it takes them. Hands back jobs that it may not start.

        For the thread that reports.
        """
        if self._slots.closing:
            self.hand_back_soon()
            return "stopping"
        last = self._pulse.last_heartbeat
        is_answered = last.silence < 2 * last.interval  # while Redis is away, no worker can work
        counts = is_answered and not self._is_paused and not self._is_in_task()
        is_stuck = self.watch.is_stuck(counts, last.interval)
        if is_stuck != self._is_stuck:
            self._is_stuck = is_stuck
            self._log()
        if is_stuck or self._is_paused:
            self._slots.suspended = True
            self.hand_back_soon()
        elif not self._is_handing_back():  # a job whose message is moving must not begin
            self._slots.suspended = False
        if self._is_paused and is_answered and not last.draining:
            self._slots.drain(True)
        return "stuck" if is_stuck else ""

    def pause(self, paused: bool) -> None:
        """The worker stops consuming its own queue, or consumes it again. Never blocks."""
        self._is_paused = paused
        if paused:
            self._slots.suspended = True
        self._slots.drain(paused)
        self.watch.note()
        self._pulse.nudge()

    def stop(self) -> None:
        """The worker has stopped. The node's next process consumes again, as Celery's does."""
        if self._is_paused:
            self._slots.drain(False)

    def check_flow(self, channel: ReliableChannel) -> None:
        """Raise ``ConnectionError`` if Redis has not answered the worker's BLMOVE and has answered
        a later heartbeat: then the worker's connection is dead and Redis works.

        For the event loop. The worker connects again then.
        """
        waited = channel.unanswered_for()
        if waited - self._pulse.last_heartbeat.silence > self._grace:
            raise RedisConnectionError(
                f"Redis has not answered for {waited:.0f} s over the connection that consumes the "
                "node's queue, and has answered over another"
            )

    def hand_back(self) -> None:
        """Hand back at once the jobs that have not begun. Blocks while Redis is slow."""
        node_id, parked = self._slots.node_id, []
        try:
            if self._is_replaced():
                return
            for job_id in park_messages(self._plugin, node_id, self._slots):
                parked.append(job_id)
                self._slots.forget(job_id)  # before it is placed: it may come to this node again
            # Celery may have put a message back itself: a cancelled consumer does.
            others = self._slots.unstarted().difference(parked)
            jobs = by_age(others.union(parked))
            outcomes = self._plugin.scheduler.place_jobs(jobs, handed_back_by=node_id)
        except (RedisError, OperationalError) as exc:
            logger.warning("jobs cannot be handed back now. The node tries again: %s", exc)
            self._slots.place(parked)
            return
        for job_id, outcome in zip(jobs, outcomes, strict=True):
            if job_id in others and outcome != "unchanged":
                self._slots.forget(job_id)

    def hand_back_soon(self) -> None:
        """Hand back in a thread, if there is something to hand back."""
        if not self._is_handing_back():
            self._handing_back = threading.Thread(
                target=self._hand_back_if_any, name="hand-back", daemon=True
            )
            self._handing_back.start()

    def _hand_back_if_any(self) -> None:
        if self._slots.unstarted():
            self.hand_back()
            return
        scheduler, node_id = self._plugin.scheduler, self._slots.node_id
        lists = [scheduler.keys(name, node_id) for name in ("node_queue", "node_taken")]
        try:
            has_messages = scheduler.redis.exists(*lists)
        except RedisError:
            return  # the next look comes soon
        if has_messages:
            self.hand_back()

    def _is_handing_back(self) -> bool:
        return self._handing_back is not None and self._handing_back.is_alive()

    def _is_in_task(self) -> bool:
        """Does a task run in the event loop, as tasks of a solo pool do?"""
        return isinstance(self._pool, SoloPool) and any(
            held.is_begun and not held.has_ended for held in list(self._slots.held.values())
        )

    def _log(self) -> None:
        node_id = self._slots.node_id
        extra = {"node_id": node_id, "stuck": self._is_stuck}
        if self._is_stuck:
            logger.error(
                "node %s is stuck: its worker has not read its queue for %.0f s. It takes no jobs "
                "and hands back those that it has not started",
                *(node_id, self._plugin.scheduler.settings.node_ttl),
                extra=extra,
            )
        else:
            logger.warning("node %s works again: it reads its queue", node_id, extra=extra)
