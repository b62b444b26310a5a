"""What :mod:`celery_minsched.monitor.queries` answers with. Times are ms of the server's clock."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, computed_field

from ..core.stored import Fields

#: What a node may be, in the order in which tables show it. ``left`` and ``dead`` nodes are gone.
NODE_STATES = {
    "full": "takes jobs, and has no free slot",
    "free": "takes jobs, and has a free slot",
    "draining": "takes no more jobs, since an operator drained it",
    "starting": "is registered, and does not take jobs yet",
    "stopping": "was asked to stop: it finishes the jobs that it runs, and leaves",
    "stuck": "sends heartbeats, but its worker does not work",
    "dead": "fell silent",
    "left": "has stopped, and said so",
    "broken": "has a record that cannot be read",
}
GONE = ("dead", "left")


#: What a job may be.
JOB_STATES = (
    *("parked", "waiting", "delayed", "dispatched", "running", "finished", "failed", "lost"),
    "broken",
)


class NodeView(BaseModel):
    """A node as Redis knows it."""

    node_id: str
    #: One of :data:`NODE_STATES`.
    state: str
    draining: bool
    max_jobs: int
    current_jobs: int
    pools: list[str]
    capabilities: list[str]
    load: dict[str, Any]
    last_heartbeat_ts: int  # ms, the server's clock
    #: "host/pid/random" of its process, "" where it left and said so.
    instance: str = ""
    #: What cannot be read of its record; "" for nothing. Its state is ``broken`` then.
    broken: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def online(self) -> bool:
        """Does it take jobs, or would it if it was not drained?"""
        return self.state in ("free", "full", "draining")

    @property
    def takes_jobs(self) -> bool:
        """Is it there to work, be it full just now?"""
        return self.state in ("free", "full")

    @property
    def is_free(self) -> bool:
        """Does it take a job now?"""
        return self.state == "free"

    @property
    def is_heard(self) -> bool:
        """Does it send heartbeats?"""
        return self.state not in GONE


class PoolView(BaseModel):
    """A pool, and what its nodes have together."""

    pool: str
    paused: bool
    nodes: int
    online: int
    slots: int  # of the nodes that take jobs
    taken: int  # of these slots
    leaving: int  # jobs at its other nodes: at those that drain, stop, are stuck or dead
    waiting: int  # in the lines that it could serve
    langs: list[str]  # "src:tgt"; none where it is not asked for languages

    @computed_field  # type: ignore[prop-decorator]
    @property
    def load(self) -> float:
        """(taken + waiting) / slots, above 1 where jobs wait: what to scale a fleet by. With no
        slot it is the number of jobs that wait, so that a fleet of none grows.
        """
        return (self.taken + self.waiting) / max(self.slots, 1)


class JobView(BaseModel):
    """A job as Redis knows it; times are ms of the server's clock, 0 for what has not happened."""

    job_id: str
    task_id: str = ""
    #: Where it is, or was last.
    node_id: str = ""
    pool: str = ""
    session_id: str = ""
    src_lang: str = ""
    tgt_lang: str = ""
    #: One of :data:`JOB_STATES`.
    status: str
    #: What cannot be read of its record; "" for nothing. Its status is ``broken`` then.
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
    session_node: str = ""  # where its session was before it
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
        """Does it hold a slot of its node?"""
        return self.status in ("dispatched", "running")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def task(self) -> str:
        """Name of the task, "" where there is none."""
        payload = Fields({"payload": self.payload_json}).json("payload")
        return str(payload.get("task", "")) if isinstance(payload, dict) else ""


class LineView(BaseModel):
    """A line of jobs that wait for the same."""

    name: str
    where: str
    capabilities: list[str]
    required_node: str
    waiting: int
    #: False where no registered node could do it, so that waiting alone will not help.
    possible: bool
    #: When its first job began to wait; ms.
    oldest_ts: int = 0

    @property
    def demand(self) -> str:
        """What its jobs ask for: ``asr``, ``zh:en +gpu``, ``asr @n1`` (at that node)."""
        node = [f"@{self.required_node}"] if self.required_node else []
        return " ".join([self.where, *(f"+{name}" for name in self.capabilities), *node])


#: In the year 9999, in every time zone: Python knows no later date.
LAST_TS = 253_402_128_000_000


def place_of(event_id: str) -> tuple[int, int]:
    """Ids of events in the order of the stream."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


class Event(BaseModel):
    """Something that happened; see lua/include/events.lua for the kinds."""

    event_id: str
    kind: str
    fields: dict[str, str]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ts(self) -> int:
        """When; ms of the server's clock. A program may write an id beyond the last date."""
        return min(place_of(self.event_id)[0], LAST_TS)


class ServerView(BaseModel):
    """Redis; but for the round trip since its start, and 0 where it does not tell."""

    round_trip_ms: float
    scripts: int = 0  # calls
    script_us: int = 0  # time in them
    commands: int = 0  # calls, those made in scripts too
