"""The ``minsched_*`` settings and their defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .field_types import Name

PREFIX = "minsched_"

#: Seconds. kombu has no time-out by default, and a call of the scheduler must end.
SOCKET_TIMEOUT = 5.0


class Settings(BaseModel):
    """The settings without their ``minsched_`` prefix. Times are seconds."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    database_url: str | None = Field(
        default=None, repr=False, description="URL of the scheduler's Redis; None: the broker"
    )
    key_prefix: Name = Field(default="scheduler", description="prefix of the scheduler's keys")
    routes: dict[str, dict[str, Any]] = Field(
        default={}, description="task name patterns to demands, like `task_routes`"
    )
    node_ttl: float = Field(
        default=8.0, gt=0, description="a node is dead if its last heartbeat is older than this"
    )
    heartbeat_interval: float = Field(
        default=1.0,
        gt=0,
        description="time between two heartbeats of a node (longer in a large fleet)",
    )
    lease: float = Field(
        default=30.0, gt=0, description="how long a job keeps its slot if no node confirms the job"
    )
    when_full: Literal["wait", "error"] = Field(
        default="wait", description="what a task does if no slot is free"
    )
    max_waiting: int = Field(
        default=100_000,
        ge=1,
        description="the most jobs in one line. The scheduler refuses more jobs",
    )
    session_ttl: float = Field(
        default=3600.0,
        gt=0,
        description="how long the scheduler keeps a session after its last job",
    )
    max_rescues: int = Field(
        default=3, ge=1, description="a job fails when this many nodes have died while they ran it"
    )
    history_ttl: float = Field(
        default=86400.0,
        gt=0,
        description="how long the records of an ended job and of a stopped node remain",
    )

    def model_post_init(self, _context: Any) -> None:
        """Refuse times that make live nodes dead, or delete the records of running jobs."""
        if self.heartbeat_interval * 4 > self.node_ttl:
            raise ValueError(
                f"heartbeat_interval {self.heartbeat_interval} s is more than a quarter of "
                f"node_ttl {self.node_ttl} s: one lost connection would make a live node dead. Set "
                f"heartbeat_interval to {self.node_ttl / 4:g} or less, or node_ttl to "
                f"{self.heartbeat_interval * 4:g} or more."
            )
        if self.lease < self.node_ttl:
            raise ValueError(
                f"lease {self.lease} s is shorter than node_ttl {self.node_ttl} s: slots would "
                f"become free before their node is dead. Set lease to {self.node_ttl:g} or "
                "more."
            )
        if self.history_ttl < self.lease * 2:
            raise ValueError(
                f"history_ttl {self.history_ttl} s is shorter than twice the lease {self.lease} s: "
                "the record of a running job would be deleted between two renewals of its lease. "
                f"Set history_ttl to {self.lease * 2:g} or more, or lease to "
                f"{self.history_ttl / 2:g} or less."
            )

    @property
    def pulse_timeout(self) -> float:
        """Seconds after which a node's heartbeat closes its connection and opens another.

        In the worst case the connection is lost just after a heartbeat. The next heartbeat starts
        one interval later and times out. The third one starts another interval later. These three
        pauses take at most three quarters of ``node_ttl``. The last quarter is for the new
        connection and its heartbeat.
        """
        return min(self.node_ttl / 4, SOCKET_TIMEOUT)
