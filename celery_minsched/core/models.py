"""The requests and the answers of the scheduler.

A wrong value raises pydantic's ``ValidationError`` (a ``ValueError``), which names the field and
the value.
"""

from __future__ import annotations

import json
import math
import os
import socket
import uuid
from functools import cache
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from .demand import Demand
from .field_types import (
    MAX_ID,
    MAX_OFFERS,
    MAX_SLOTS,
    MAX_TASK_ID,
    RESOURCES,
    JobId,
    JsonObject,
    JsonText,
    Lang,
    Milliseconds,
    Model,
    Name,
    Printable,
    check_name,
    parse_json,
)


@cache
def _process_token(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}/{uuid.uuid4().hex[:8]}"


def this_process() -> str:
    """A name of this process that stays the same while it lives: ``host/pid/random``."""
    return _process_token(os.getpid())


class PoolOffer(Model):
    """A pool that a node offers, and the language pairs that it serves there."""

    id: Name
    langs: list[tuple[Lang, Lang]] = Field(default=[])


class RegisterNodeRequest(Model):
    """The description of a node: its slots, its capabilities and its pools.

    ``cap_json`` is a JSON list of capability names, or an object whose keys with a value other
    than false, null and 0 are capabilities. ``pools_json`` is a JSON list of pool ids (strings or
    numbers) and of objects ``{"id": "mt", "langs": [["zh", "en"]]}``.
    """

    node_id: Name
    cap_json: JsonText = "{}"
    max_jobs: int = Field(ge=1, le=MAX_SLOTS)
    pools_json: JsonText
    #: The most jobs that the node runs at once. ``None``: ``max_jobs``. If the node dies, its death
    #: counts for at most this number of jobs. The jobs that it claimed first count.
    concurrency: int | None = Field(default=None, ge=1)
    #: The process of the node. While a live node has the same id and another process, Redis answers
    #: NODE_ID_IN_USE.
    instance: Printable = Field(default_factory=this_process, max_length=MAX_ID)
    #: False: the node gets its id, and no jobs yet.
    online: bool = True

    @field_validator("cap_json")
    @classmethod
    def _check_capabilities(cls, text: str) -> str:
        _capabilities(parse_json(text))
        return text

    @field_validator("pools_json")
    @classmethod
    def _check_pools(cls, text: str) -> str:
        _pools(parse_json(text))
        return text

    def model_post_init(self, _context: Any) -> None:
        """Bound the number of the node's indexes: one dispatch updates all of them."""
        offers = len(self.pools) * (len(self.capabilities) + 1)
        if offers > MAX_OFFERS:
            raise ValueError(
                f"{len(self.pools)} pools with {len(self.capabilities)} capabilities make {offers} "
                f"indexes; at most {MAX_OFFERS} fit. Offer fewer pools or fewer capabilities."
            )

    @property
    def capabilities(self) -> list[str]:
        """The names of the node's capabilities, sorted."""
        return _capabilities(parse_json(self.cap_json))

    @property
    def pools(self) -> list[PoolOffer]:
        """The pools the node belongs to."""
        return _pools(parse_json(self.pools_json))


#: Texts of a registration that the node's record keeps as they are. No script reads them.
DESCRIPTION_FIELDS: Final = ("cap_json", "pools_json")


def _capabilities(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [name for name, has in value.items() if has]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(
            f'{value!r} is neither a list of names nor an object such as {{"a": true}}'
        )
    return sorted({check_name(name) for name in value})


def _pools(value: Any) -> list[PoolOffer]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'{value!r} is not a list of pools such as ["asr"]; a node needs at least one'
        )
    offers = [PoolOffer.model_validate(o if isinstance(o, dict) else {"id": o}) for o in value]
    if len({offer.id for offer in offers}) < len(offers):
        raise ValueError(f"{value!r} names a pool twice")
    return offers


class RegisterNodeResponse(Model):
    """The node's state in Redis after its registration."""

    node_id: str
    current_jobs: int


class HeartbeatRequest(Model):
    """A node's report that it is alive.

    ``load_json`` is a JSON object. The node's load is the mean of its ``cpu``, ``gpu`` and ``mem``
    (percent, 0 to 100). Dispatch has three levels of load: below 33 %, below 67 %, and above. A
    load that is given as a fraction (0 to 1) is a low load. ``jobs`` are the jobs that the node
    holds. They are ``None`` if the node does not know them now.
    """

    node_id: Name
    online: bool = True
    load_json: JsonObject = "{}"
    jobs: list[JobId] | None = Field(default=None, max_length=2 * MAX_SLOTS)
    #: The process of the node, ``None`` for no check. If another process has the node's id, Redis
    #: answers UNKNOWN_NODE.
    instance: Printable | None = Field(default=None, max_length=MAX_ID)
    #: Can the caller read messages, and does it claim the rescues that are due?
    rescues: bool = False
    #: Why the node takes no jobs. ``stopping``: it finishes its jobs. ``stuck``: its worker does
    #: not work. In both states the node is offline, also if ``online`` is true.
    state: Literal["", "stuck", "stopping"] = ""
    #: Does the node take each message from its queue at once? Then a message that is there for
    #: ``node_ttl`` shows that the node is stuck.
    takes_at_once: bool = False
    #: Seconds between two heartbeats until the answer changes it. ``None``: the setting.
    interval: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("load_json")
    @classmethod
    def _check_load(cls, text: str) -> str:
        _load(parse_json(text))
        return text

    @property
    def load(self) -> float:
        """Mean of the reported cpu, gpu and mem in percent, or 0 if none is reported."""
        return _load(parse_json(self.load_json))


def _load(report: dict[str, Any]) -> float:
    parts = [report[name] for name in RESOURCES if report.get(name) is not None]
    for part in parts:
        number = isinstance(part, int | float) and not isinstance(part, bool)
        if not number or not math.isfinite(part) or part < 0:
            raise ValueError(f"{part!r} is not a load: cpu, gpu and mem are percent, 0 to 100")
    return min(sum(parts) / len(parts), 100.0) if parts else 0.0


class HeartbeatResponse(Model):
    """The answer to a heartbeat: the node's state in Redis, and the work of the node."""

    current_jobs: int
    draining: bool
    #: Reported jobs that do not belong to the node.
    not_yours: list[str]
    #: Milliseconds after which the next maintenance is due, or -1 for none.
    next_due_ms: int = -1
    #: Seconds to the node's next heartbeat: the setting, or more in a large fleet.
    interval: float = 0.0
    #: Does an unread message in the node's queue show that the node is stuck?
    is_stuck: bool = False
    #: Is a rescue due? A caller that can read messages then calls ``claim_rescue``.
    rescue_due: bool = False
    #: Rises when the node is declared dead: claims of an earlier term are void.
    term: int = 0


class JobFields(Model):
    """The fields of a job's message that are not the same for each job of a task."""

    #: Celery's priority: 0 is first, 9 is last (kombu's Redis transport).
    priority: int = 0
    #: The job holds no slot before this time: ms since the epoch, 0 for none.
    due_ts: Milliseconds = 0
    #: The job is dropped after this time: ms since the epoch, 0 for none.
    expires_ts: Milliseconds = 0
    task_id: Printable = Field(default="", max_length=MAX_TASK_ID)
    #: Makes the call safe to repeat: the same token and task id get the same job.
    token: Printable = Field(default="", max_length=64)


class DispatchRequest(JobFields, Demand):
    """A job to be dispatched: its demand, and the fields of its message."""

    payload_json: JsonText = "{}"
    when_full: Literal["error", "wait"] = "error"

    @classmethod
    def of(
        cls,
        demand: Demand,
        *,
        default_when_full: Literal["wait", "error"] = "wait",
        task_name: str = "",
        **job: Any,
    ) -> DispatchRequest:
        """The request of one job with this demand. ``payload_json`` names only the task.

        ``job`` are the other fields. Raises pydantic's ``ValidationError``.
        """
        return cls(
            **demand.model_dump(exclude={"when_full"}),
            when_full=demand.when_full or default_when_full,
            payload_json=json.dumps({"task": task_name}),
            **job,
        )


class DispatchResponse(Model):
    """The node of a job or its place in line, and the reason."""

    #: "" if the job waits.
    node_id: str
    job_id: str
    pool: str = ""
    #: Of a job with a node: ``preferred`` (the caller's node), ``sticky`` (the session's node) or
    #: ``least_loaded``. Of a job that waits: ``busy``, ``impossible`` (no registered node can run
    #: it) or ``delayed``.
    chosen_by: str = ""


class CompleteTaskRequest(Model):
    """The end of a job on a node. ``reason`` adds to the status."""

    job_id: JobId
    node_id: Name
    status: Literal["finished", "failed"]
    reason: Printable = Field(default="", max_length=200)
    #: Delivery tag of the job's message, which the node kept until now. "" for none.
    delivery_tag: Printable = Field(default="", max_length=255)
    #: The claim by which the node ran the job. "" for none. A later claim makes it void.
    claim: Printable = Field(default="", max_length=64)
    #: The claim by which the node takes its next job in the answer. "" if it takes none. The name
    #: differs from those of earlier claims. A repeated call gives the same name.
    next_claim: Printable = Field(default="", max_length=64)


class NextJob(Model):
    """A job that the node has taken by ``next_claim``, in the step that ended another job.

    Its message is unacknowledged at the node. The delivery tag is ``next_claim``.
    """

    job_id: str
    #: The message as its sender has written it. Another program may have sent bytes that are no
    #: text.
    message: bytes
    pool: str
    chosen_by: str
    waited_ms: int
    #: The node's term, to which the claim belongs.
    term: int


class CompleteTaskResponse(Model):
    """``already_ended`` is true if the job had ended before. Then nothing was changed."""

    job_id: str
    already_ended: bool
    #: The job that the node runs next. A repeated call brings the same job while the node has it by
    #: the same ``next_claim``. ``None`` if no job waits, the node takes no jobs, or Redis has no
    #: memory.
    next_job: NextJob | None = None
