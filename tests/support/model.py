"""The scheduler as plain Python: dicts, loops, no time. A test compares the scripts with it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Node:
    slots: int
    pools: frozenset[str]
    caps: frozenset[str]
    online: bool = True
    draining: bool = False
    load: int = 0
    turn: int = 0  # turn of the last choice
    jobs: set[str] = field(default_factory=set)

    @property
    def takes_jobs(self) -> bool:
        return self.online and not self.draining

    @property
    def is_free(self) -> bool:
        return self.takes_jobs and len(self.jobs) < self.slots


@dataclass
class Job:
    pool: str
    caps: frozenset[str]
    session: str = ""
    affinity: str = "prefer"
    node: str = ""
    status: str = ""
    required: str = ""  # the node that it waits for
    fairness: str = ""
    band: int = 0
    order: tuple[int, int] = (0, 0)  # in its line, among jobs of its key and priority


class Model:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[str, Job] = {}
        self.sessions: dict[str, str] = {}

    def fits(self, node: Node, job: Job) -> bool:
        return job.pool in node.pools and job.caps <= node.caps

    def could_take(self, node_id: str, job: Job) -> bool:
        """True if the node has a free slot that this job may take."""
        node = self.nodes[node_id]
        required = self.nodes.get(job.required)
        is_there = required is not None and required.takes_jobs and self.fits(required, job)
        bound = is_there and job.required != node_id
        return node.is_free and self.fits(node, job) and not bound

    def required_node(self, job: Job) -> str:
        home = self.nodes.get(self.sessions.get(job.session, ""))
        if job.affinity != "require" or home is None:
            return ""
        return self.sessions[job.session] if self.fits(home, job) and home.takes_jobs else ""

    def choose(self, job: Job) -> str:
        """The node that the job goes to now, or ""."""
        free = {name for name, node in self.nodes.items() if node.is_free and self.fits(node, job)}
        required = self.required_node(job)
        if required:
            return required if required in free else ""
        home = self.sessions.get(job.session, "") if job.affinity != "none" else ""
        if home in free:
            return home
        return min(free, key=self.load_order, default="")

    def load_order(self, name: str) -> tuple[int, int, int, str]:
        node = self.nodes[name]
        level = min(node.load * 3 // 100, 2)
        return (len(node.jobs) * 4095 // node.slots, level, node.turn, name)

    def is_possible(self, job: Job) -> bool:
        """True if a registered node of any state fits the job."""
        return any(self.fits(node, job) for node in self.nodes.values())

    def give(self, job_id: str, node_id: str) -> None:
        job = self.jobs[job_id]
        job.node, job.status = node_id, "dispatched"
        self.nodes[node_id].jobs.add(job_id)
        if job.session:
            self.sessions[job.session] = node_id

    def overtaken(self, job_id: str) -> list[str]:
        """The earlier waiting jobs of the same line, key and priority."""
        job = self.jobs[job_id]

        def kind(other: Job) -> tuple[object, ...]:
            return (other.pool, other.caps, other.required, other.fairness, other.band)

        return [
            name
            for name, other in self.jobs.items()
            if other.status == "waiting" and kind(other) == kind(job) and other.order < job.order
        ]

    def end(self, job_id: str, status: str) -> None:
        job = self.jobs[job_id]
        if job.node:
            self.nodes[job.node].jobs.discard(job_id)
        job.status = status
