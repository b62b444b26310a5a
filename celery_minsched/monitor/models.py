"""The answers to :mod:`celery_minsched.monitor.queries`. Times are ms of the server's clock."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, computed_field

from ..core.describe import short_demand
from ..core.statuses import HAS_SLOT, STATUSES
from ..core.stored import Fields

#: The states of a node, in the order of tables. ``left`` and ``dead`` nodes are gone.
NODE_STATES: Final = {
    "full": "takes jobs and has no free slot",
    "free": "takes jobs and has a free slot",
    "draining": "takes no new jobs, because an operator drained it",
    "starting": "is registered and does not take jobs yet",
    "stopping": "was asked to stop: it finishes its running jobs and leaves",
    "stuck": "sends heartbeats, but its worker does not work",
    "dead": "sends no heartbeats",
    "left": "has stopped in the normal way",
    "broken": "has an unreadable record; see minsched check",
}
GONE: Final = ("dead", "left")

#: The states of a job.
JOB_STATES: Final = (*STATUSES, "broken")


class NodeView(BaseModel):
    """A node, according to its record in Redis."""

    node_id: str
    #: One of :data:`NODE_STATES`.
    state: str
    draining: bool
    max_jobs: int
    current_jobs: int
    pools: list[str]
    capabilities: list[str]
    load: dict[str, Any]
    last_heartbeat_ts: int
    #: "host/pid/random" of its process, "" after it has left.
    instance: str = ""
    #: The faults of an unreadable record, "" for none. The state is then ``broken``.
    broken: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def online(self) -> bool:
        """Does the node take jobs, or is it only drained?"""
        return self.state in ("free", "full", "draining")

    @property
    def description(self) -> dict[str, list[str]]:
        """The values of the fields of :data:`NODE_DESCRIPTION`. A text is a list of one item."""
        values = ((name, getattr(self, name)) for name in NODE_DESCRIPTION)
        return {
            name: value if isinstance(value, list) else [value] if value else []
            for name, value in values
        }

    @property
    def takes_jobs(self) -> bool:
        """Does the node take jobs when it has a free slot?"""
        return self.state in ("free", "full")

    @property
    def is_free(self) -> bool:
        """Does the node take a job now?"""
        return self.state == "free"

    @property
    def heartbeats_arriving(self) -> bool:
        """Does the node send heartbeats?"""
        return self.state not in GONE


#: The fields that describe a node to operators, with their titles. They are columns of ``nodes``
#: and of Flower's page. A text is also a label of the metric ``minsched_node_info``, and is read
#: from the field of the same name in the node's record.
NODE_DESCRIPTION: Final = {"pools": "Pools", "capabilities": "Capabilities"}


class PoolView(BaseModel):
    """A pool, and the sums of its nodes."""

    pool: str
    paused: bool
    nodes: int
    online: int
    slots: int  # of the nodes that take jobs
    taken: int  # of these slots
    leaving: int  # jobs at its other nodes, which drain, stop, are stuck or dead
    waiting: int  # in the lines that it can serve
    langs: list[str]  # "src:tgt", or empty if the pool serves all language pairs

    @computed_field  # type: ignore[prop-decorator]
    @property
    def load(self) -> float:
        """(taken + waiting) / slots, for autoscaling. Above 1, jobs wait.

        With no slot it is the number of waiting jobs, so that a fleet without nodes grows.
        """
        return (self.taken + self.waiting) / max(self.slots, 1)

    @property
    def state(self) -> str:
        """``open`` or ``paused``."""
        return "paused" if self.paused else "open"


class JobView(BaseModel):
    """A job, according to its record in Redis. A time is 0 if the event has not happened."""

    job_id: str
    task_id: str = ""
    #: The node that has it, or had it last.
    node_id: str = ""
    pool: str = ""
    session_id: str = ""
    src_lang: str = ""
    tgt_lang: str = ""
    #: One of :data:`JOB_STATES`.
    status: str
    #: The faults of an unreadable record, "" for none. The status is then ``broken``.
    broken: str = ""
    reason: str = ""
    chosen_by: str = ""
    where: str = ""
    caps: str = ""
    preferred: str = ""
    affinity: str = ""
    payload_json: str = "{}"
    line: str = ""
    ticket: str = ""
    decision: str = ""
    from_node: str = ""  # the node that it was taken from
    session_node: str = ""  # the node of its session before this job
    rescues: int = 0
    waited_ms: int = 0
    due_ts: int = 0
    created_ts: int = 0
    waiting_ts: int = 0
    dispatched_ts: int = 0
    started_ts: int = 0
    ended_ts: int = 0

    @property
    def has_slot(self) -> bool:
        """Does the job hold a slot of its node?"""
        return self.status in HAS_SLOT

    @property
    def capabilities(self) -> list[str]:
        """The capabilities that the job asks for."""
        return [name for name in self.caps.split(",") if name]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def task(self) -> str:
        """The name of the task, "" if it is unknown."""
        payload = Fields({"payload": self.payload_json}).json("payload")
        return str(payload.get("task", "")) if isinstance(payload, dict) else ""


class LineView(BaseModel):
    """A line: the jobs that wait for the same demand."""

    name: str
    where: str
    capabilities: list[str]
    required_node: str
    waiting: int
    #: False if no registered node can run its jobs.
    possible: bool
    #: The time at which its first job began to wait.
    oldest_ts: int = 0

    @property
    def demand(self) -> str:
        """The demand of its jobs: ``asr``, ``zh:en +gpu``, ``asr @n1`` (at that node)."""
        return short_demand(self.where, self.capabilities, self.required_node)

    @property
    def state(self) -> str:
        """``busy``, or ``impossible`` if no registered node can run its jobs."""
        return "busy" if self.possible else "impossible"


#: A time in the year 9999, the last that Python can convert in all time zones.
LAST_TS: Final = 253_402_128_000_000


def place_of(event_id: str) -> tuple[int, int]:
    """The event's place in the stream, for sorting."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


class Event(BaseModel):
    """An event. lua/include/events.lua lists the kinds."""

    event_id: str
    kind: str
    fields: dict[str, str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ts(self) -> int:
        """The time of the event. Another program can write an id beyond the last date."""
        return min(place_of(self.event_id)[0], LAST_TS)


class ServerView(BaseModel):
    """The Redis server.

    The counters start with the server. They are 0 if the client may not read them.
    """

    round_trip_ms: float
    scripts: int = 0  # calls
    script_us: int = 0  # time in them
    commands: int = 0  # calls, including calls by scripts
