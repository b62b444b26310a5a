"""The ``minsched_*`` settings and their defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .field_types import Name

PREFIX = "minsched_"

#: Seconds. kombu has none by default; a call of the scheduler must come back.
SOCKET_TIMEOUT = 5.0


class Settings(BaseModel):
    """The settings without their ``minsched_`` prefix; times are seconds."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    database_url: str | None = Field(
        default=None, repr=False, description="Redis of the scheduler; None: the broker's"
    )
    key_prefix: Name = Field(default="scheduler", description="prefix of the scheduler's keys")
    routes: dict[str, dict[str, Any]] = Field(
        default={}, description="task name patterns to demands, like `task_routes`"
    )
    node_ttl: float = Field(
        default=8.0, gt=0, description="a node that was silent for longer is taken for dead"
    )
    heartbeat_interval: float = Field(
        default=1.0,
        gt=0,
        description="pause between two heartbeats of a node; longer in a large fleet",
    )
    lease: float = Field(
        default=30.0, gt=0, description="how long a slot is held for a job that no node confirms"
    )
    when_full: Literal["wait", "error"] = Field(
        default="wait", description="what a task does when every slot is taken"
    )
    max_waiting: int = Field(
        default=100_000, ge=1, description="jobs in one line; one more is refused"
    )
    session_ttl: float = Field(
        default=3600.0, gt=0, description="how long a session is remembered after its last job"
    )
    max_rescues: int = Field(
        default=3, ge=1, description="a job is failed when this many nodes have died under it"
    )
    history_ttl: float = Field(
        default=86400.0,
        gt=0,
        description="how long an ended job and a departed node can be seen",
    )

    def model_post_init(self, _context: Any) -> None:
        """Times that would make live nodes dead, or lose the records of running jobs, are wrong."""
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
                f"lapse before the node that holds them is dead. Set lease to {self.node_ttl:g} or "
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
        """Seconds after which a node's heartbeat gives up its connection and makes a new one.

        In the worst case the connection is lost just after a heartbeat. The next one starts an
        interval later, times out, and the one after it starts another interval later. The three
        pauses are three quarters of ``node_ttl`` at most. The last quarter is left for the new
        connection and its heartbeat.
        """
        return min(self.node_ttl / 4, SOCKET_TIMEOUT)
