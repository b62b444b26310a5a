"""Registers the node and sends its heartbeats, in the pulse process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_minsched import (
    HeartbeatRequest,
    MinimalSchedulerService,
    NodeIdInUse,
    RegisterNodeRequest,
    UnknownNode,
    WrongLayout,
)
from celery_minsched.core.models import HeartbeatResponse

from .last_heartbeat import LastHeartbeat
from .load import LoadMeter
from .process import now
from .report import Report, State
from .watch import Watch

logger = logging.getLogger("node_agent.pulse")


class Heartbeats:
    """Registers the node and sends heartbeats. Logs once that Redis is away, and once that it is
    back.
    """

    def __init__(
        self,
        scheduler: MinimalSchedulerService,
        registration: RegisterNodeRequest,
        last_heartbeat: LastHeartbeat,
        wake_rescuer: Callable[[], None],
        give_up_queue: Callable[[], None],
    ) -> None:
        self.meter: LoadMeter
        self._scheduler = scheduler
        self._registration = registration
        self._last_heartbeat = last_heartbeat
        self._wake_rescuer = wake_rescuer
        self._give_up_queue = give_up_queue
        #: As the worker reported last, or "stuck" if it has stopped reporting.
        self._state: State = ""
        self._takes_at_once = False
        self._watch = Watch(scheduler.settings.node_ttl)
        #: The worker does not report, and does not compute.
        self._is_silent = False
        #: The scheduler answered that the worker has not read a message in the node's queue.
        self._has_unread_message = False
        self._errors = ""
        self._next_due = -1.0

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return self._last_heartbeat.interval

    def send(self, report: Report | None, is_computing: bool = False) -> float:
        """Send one heartbeat, with the worker's report if there is a new one.

        A worker that does not report is stuck, unless it ``is_computing``: a task may hold its
        interpreter. Returns the seconds until maintenance is due, -1 if unknown. Raises
        :class:`NodeIdInUse` if another process has the node's id.
        """
        self._next_due = -1.0
        self._check_worker(report, is_computing)
        # A registration that fails does not prevent the heartbeat.
        failed = [self._try(self._register, report), self._try(self._beat, report)]
        errors = "; ".join(filter(None, failed))
        if errors and not self._errors:
            logger.warning("%s", errors)
        if self._errors and not errors:
            node_id = self._registration.node_id
            logger.info("node %s sends heartbeats again", node_id, extra={"node_id": node_id})
        self._errors = errors
        return self._next_due

    def _try(self, step: Callable[[Report | None], None], report: Report | None) -> str:
        """Take a step. Returns its error, "" if there is none."""
        try:
            step(report)
        except NodeIdInUse:
            raise
        except ResponseError as exc:
            return f"Redis refuses the heartbeat. Tasks go on, and the node tries again: {exc}"
        except (RedisError, OperationalError) as exc:
            return f"Redis is away. Tasks go on, and the node tries again: {exc}"
        except WrongLayout as exc:  # Redis lost all, and another version wrote to it first
            return f"Running tasks go on, and the node gets no more jobs: {exc}"
        except Exception as exc:  # no error may end the pulse
            if not self._errors:
                logger.exception("an unexpected error in the pulse")
            return repr(exc)
        return ""

    def _check_worker(self, report: Report | None, is_computing: bool) -> None:
        """Note the worker's report, or find out that the worker is stuck and cannot report it."""
        if report:
            self._watch.note()
            self._state, self._takes_at_once = report.state, report.takes_at_once
        elif is_computing:
            self._takes_at_once = False  # the worker may leave a message in the queue meanwhile
        was_silent = self._is_silent
        self._is_silent = self._registration.online and self._watch.is_stuck(
            not is_computing, self.interval
        )
        if self._is_silent and self._state != "stopping":
            self._state = "stuck"
        if self._is_silent and not was_silent:
            self._log_stuck("its worker sends no report and does not compute")

    def _register(self, report: Report | None) -> None:
        """Register again if the worker has come online or has another number of slots.

        A node that takes no jobs keeps its registration, and its heartbeat says so.
        """
        if report is None or report.last:
            return
        size = {"max_jobs": report.max_jobs, "concurrency": report.concurrency}
        registration = self._registration.model_copy(update={"online": True, **size})
        if report.online and registration != self._registration:
            self._scheduler.register_node(registration)
            self._registration = registration
            self._log(
                f"node %s is online with {registration.max_jobs} slots",
                online=True,
                max_jobs=registration.max_jobs,
            )

    def _beat(self, report: Report | None) -> None:
        is_last = bool(report and report.last)
        request = self._request(report, is_last)
        began = now()
        try:
            answer = self._ask(request)
        except UnknownNode:
            if is_last:
                return
            self._register_again()
            answer = self._ask(request)
        was_draining = self._last_heartbeat.draining
        self._last_heartbeat.note(began, answer.term, answer.draining, answer.interval)
        self._next_due = answer.next_due_ms / 1000
        if answer.draining != was_draining:
            change = "draining" if answer.draining else "not draining any more"
            self._log(f"node %s is {change}", draining=answer.draining)
        if is_last:
            self._log("node %s has left")
        if answer.is_stuck and not self._has_unread_message:
            self._log_stuck("its worker has not read a message in its queue")
        self._has_unread_message = answer.is_stuck
        if answer.is_stuck or self._is_silent:  # otherwise the worker gives up its queue
            self._give_up_queue()
        # A node that leaves could not finish a rescue.
        if answer.rescue_due and request.online and not request.state:
            self._wake_rescuer()

    def _request(self, report: Report | None, is_last: bool) -> HeartbeatRequest:
        registration = self._registration
        return HeartbeatRequest(
            node_id=registration.node_id,
            online=registration.online and not is_last,
            load_json=json.dumps(self.meter.read()),
            # Before its registration as online a node holds no jobs, and has not left.
            jobs=report.jobs if report and (registration.online or is_last) else None,
            instance=registration.instance,
            rescues=True,
            state="" if is_last else self._state,
            takes_at_once=self._takes_at_once and not self._is_silent,
            interval=self.interval,
        )

    def _ask(self, request: HeartbeatRequest) -> HeartbeatResponse:
        try:
            return self._scheduler.heartbeat(request)
        except RedisTimeoutError:  # the connection may be lost while Redis works: open another
            return self._scheduler.heartbeat(request)

    def _register_again(self) -> None:
        registration = self._registration
        online = registration.online and not self._state
        self._scheduler.register_node(registration.model_copy(update={"online": online}))
        self._log("node %s was unknown to the scheduler and is registered again")

    def _log(self, text: str, **extra: object) -> None:
        node_id = self._registration.node_id
        logger.info(text, node_id, extra={"node_id": node_id, **extra})

    def _log_stuck(self, reason: str) -> None:
        node_id = self._registration.node_id
        extra = {"node_id": node_id, "stuck": True}
        logger.error("node %s is stuck: %s", node_id, reason, extra=extra)
