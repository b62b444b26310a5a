"""What goes into the scheduler and what comes out, checked before it reaches a key.

Every id is bounded and has no character that means something in a key or a queue name. JSON comes
as strings and is checked to be what its field says. A wrong value raises pydantic's
``ValidationError`` (a ``ValueError``), which names the field and the value.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import uuid
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

MAX_ID = 128
MAX_TASK_ID = 255
MAX_JSON = 64 * 1024
MAX_SLOTS = 4000  # so that one slot more is still seen in the load order (see lua/include/node.lua)
MAX_OFFERS = 256  # pools x (capabilities + 1): what a dispatch has to keep in order for one node
MAX_CAPABILITIES = 8  # in one demand
MAX_TIME = 2**53 - 1  # ms since the epoch: the largest integer that Lua holds exactly

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_LANG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_JOB_ID = re.compile(rf"\S{{0,{MAX_ID}}}:[0-9]{{1,16}}")


def _matches(pattern: re.Pattern[str], what: str, value: str) -> str:
    if len(value) > MAX_ID:
        raise ValueError(f"{value[:40]!r}… has {len(value)} characters; at most {MAX_ID} fit")
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is no {what}: it must match {pattern.pattern}")
    return value


def _name(value: str) -> str:
    return _matches(_NAME, "name", value)


def _lang(value: str) -> str:
    return _matches(_LANG, "language", value)


def _session(value: str) -> str:
    if len(value) > MAX_ID:
        raise ValueError(f"{value[:40]!r}… has {len(value)} characters; at most {MAX_ID} fit")
    if not value.isprintable() or any(char.isspace() for char in value):
        raise ValueError(f"{value!r} has a space or an unprintable character")
    return value


def is_job_id(value: str) -> bool:
    """Is it a job's id as ``dispatch_task`` gives them: a session's, a colon and a number?"""
    return value.isprintable() and bool(_JOB_ID.fullmatch(value))


def _job_id(value: str) -> str:
    if not is_job_id(value):
        raise ValueError(f"{value[:40]!r} is no job id such as 'u42:17'")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value[:40]!r} has an unprintable character")
    return value


def _time(value: int) -> int:
    if not 0 <= value <= MAX_TIME:
        raise ValueError(
            f"{value!r} is no time: give milliseconds since the epoch, 0 to {MAX_TIME}"
        )
    return value


def _integers_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def parse_json(text: str) -> Any:
    """The value of a JSON string, or a ``ValueError`` that shows what is wrong with it."""
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters of JSON; at most {MAX_JSON} fit")
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ValueError(f"{text[:60]!r} is not JSON: {exc}") from None


def _json_object(text: str) -> str:
    if not isinstance(parse_json(text), dict):
        raise ValueError(f'{text[:60]!r} is not a JSON object such as {{"cpu": 12.5}}')
    return text


Name = Annotated[str, BeforeValidator(_integers_as_text), AfterValidator(_name)]
Lang = Annotated[str, AfterValidator(_lang)]
SessionId = Annotated[str, BeforeValidator(_integers_as_text), AfterValidator(_session)]
JobId = Annotated[str, AfterValidator(_job_id)]
Printable = Annotated[str, AfterValidator(_printable)]
Milliseconds = Annotated[int, AfterValidator(_time)]
JsonText = Annotated[str, AfterValidator(lambda text: (parse_json(text), text)[1])]
JsonObject = Annotated[str, AfterValidator(_json_object)]


@cache
def _process_token(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}/{uuid.uuid4().hex[:8]}"


def this_process() -> str:
    """Who this process is, for as long as it lives: ``host/pid/random``."""
    return _process_token(os.getpid())


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolOffer(_Model):
    """A pool that a node offers, and the language pairs it serves there."""

    id: Name
    langs: list[tuple[Lang, Lang]] = []


class RegisterNodeRequest(_Model):
    """What a node is: its slots, what it can do, where it belongs.

    ``cap_json`` is a JSON list of capability names, or an object whose keys with a value other
    than false, null and 0 are capabilities. ``pools_json`` is a JSON list of pool ids (strings or
    numbers) and of objects ``{"id": "mt", "langs": [["zh", "en"]]}``.
    """

    node_id: Name
    cap_json: JsonText = "{}"
    max_jobs: int = Field(ge=1, le=MAX_SLOTS)
    pools_json: JsonText
    #: The most jobs that it runs at once; ``None``: all of them. A death counts against no others.
    concurrency: int | None = Field(default=None, ge=1)
    #: The process that is the node. A live node of the same id in another process is in the way.
    instance: Printable = Field(default_factory=this_process, max_length=MAX_ID)
    #: False takes the id, and no job yet.
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
        """One dispatch keeps every index of the node in order, so their number is bounded."""
        offers = len(self.pools) * (len(self.capabilities) + 1)
        if offers > MAX_OFFERS:
            raise ValueError(
                f"{len(self.pools)} pools with {len(self.capabilities)} capabilities make {offers} "
                f"indexes; at most {MAX_OFFERS} fit. Offer fewer pools or fewer capabilities."
            )

    @property
    def capabilities(self) -> list[str]:
        """Names of the node's capabilities."""
        return _capabilities(parse_json(self.cap_json))

    @property
    def pools(self) -> list[PoolOffer]:
        """The pools the node belongs to."""
        return _pools(parse_json(self.pools_json))


def _capabilities(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = [name for name, has in value.items() if has]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(
            f'{value!r} is neither a list of names nor an object such as {{"a": true}}'
        )
    return sorted({_name(name) for name in value})


def _pools(value: Any) -> list[PoolOffer]:
    if not isinstance(value, list) or not value:
        raise ValueError(
            f'{value!r} is no list of pools such as ["asr"]; a node needs one at least'
        )
    offers = [PoolOffer.model_validate(o if isinstance(o, dict) else {"id": o}) for o in value]
    if len({offer.id for offer in offers}) < len(offers):
        raise ValueError(f"{value!r} names a pool twice")
    return offers


class RegisterNodeResponse(_Model):
    """What Redis knows of the node once it is registered."""

    node_id: str
    current_jobs: int


class HeartbeatRequest(_Model):
    """A sign of life.

    ``load_json`` is a JSON object; of it ``cpu``, ``gpu`` and ``mem`` (percent, 0 to 100) make the
    node's load, which is their mean. Dispatch tells three levels apart: a load below a third, below
    two thirds, and above. A load that is given as a fraction (0 to 1) counts as a low one. ``jobs``
    are the jobs that the node holds, ``None`` where it cannot tell just now.
    """

    node_id: Name
    online: bool = True
    load_json: JsonObject = "{}"
    jobs: list[JobId] | None = Field(default=None, max_length=2 * MAX_SLOTS)
    #: The process that speaks; ``None`` where only one can. Another's node answers UNKNOWN_NODE.
    instance: Printable | None = Field(default=None, max_length=MAX_ID)
    #: Will the caller claim the rescues that the answer says are due? It can read messages then.
    rescues: bool = False
    #: The reason for which the node takes no jobs. ``stopping``: it finishes its jobs. ``stuck``:
    #: its worker does not work. The node is offline then, whatever ``online`` says.
    state: Literal["", "stuck", "stopping"] = ""
    #: Does the node take each message from its queue as soon as it comes? Then a message that lies
    #: there for ``node_ttl`` is evidence that it is stuck.
    takes_at_once: bool = False
    #: Seconds between two heartbeats, by which the node goes until it has the answer; ``None`` for
    #: the setting.
    interval: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("load_json")
    @classmethod
    def _check_load(cls, text: str) -> str:
        _load(parse_json(text))
        return text

    @property
    def load(self) -> float:
        """Mean of the reported cpu, gpu and mem, 0 where none was."""
        return _load(parse_json(self.load_json))


def _load(report: dict[str, Any]) -> float:
    parts = [report[name] for name in ("cpu", "gpu", "mem") if report.get(name) is not None]
    for part in parts:
        number = isinstance(part, int | float) and not isinstance(part, bool)
        if not number or not math.isfinite(part) or part < 0:
            raise ValueError(f"{part!r} is no load: cpu, gpu and mem are percent, 0 to 100")
    return min(sum(parts) / len(parts), 100.0) if parts else 0.0


class HeartbeatResponse(_Model):
    """What Redis knows of the node, and what the node should know."""

    current_jobs: int
    draining: bool
    #: Jobs that the node reported and that are not, or no longer, its own.
    not_yours: list[str]
    #: Milliseconds after which another heartbeat has something to do; -1 for nothing known.
    next_due_ms: int = -1
    #: Seconds to the node's next heartbeat: the setting, or more in a large fleet.
    interval: float = 0.0
    #: Was the node found stuck by a message that lies unread in its queue?
    is_stuck: bool = False
    #: Is there something to rescue for whoever can read messages? Then call ``claim_rescue``.
    rescue_due: bool = False
    #: A new number once the node was declared dead: the claims that it made before are void.
    term: int = 0


class DispatchRequest(_Model):
    """A job in search of a node: a pool or a language pair, and what else must hold.

    ``src_lang`` "auto" goes with a pair as ``tgt_lang`` ("zh:en": speech in either of the two);
    a pool that serves zh to en is looked up, or else one that serves en to zh. A pool that lists
    language pairs serves no others; one that lists none is not asked for its languages.
    """

    session_id: SessionId = ""
    src_lang: Lang | None = None
    tgt_lang: str | None = None
    payload_json: JsonText = "{}"
    pool: Name | None = None
    capabilities: list[Name] = Field(default=[], max_length=MAX_CAPABILITIES)
    preferred_node: Name | None = None
    #: ``prefer`` the session's node; ``require`` it (or the preferred one) while it is there to
    #: work; ``none``.
    affinity: Literal["prefer", "require", "none"] = "prefer"
    #: Where every slot is taken: ``error`` refuses, ``wait`` has the job's message wait in line.
    when_full: Literal["error", "wait"] = "error"
    #: Jobs in one line take turns by this key; the session where it is not given.
    fairness_key: SessionId | None = None
    #: Celery's priority: 0 is first, 9 is last (kombu's Redis transport).
    priority: int = 0
    #: Hold no slot before, and drop after, this time: ms since the epoch, 0 for none.
    due_ts: Milliseconds = 0
    expires_ts: Milliseconds = 0
    task_id: Printable = Field(default="", max_length=MAX_TASK_ID)
    #: Makes the call safe to repeat: the same token and task id get the same job.
    token: Printable = Field(default="", max_length=64)

    @field_validator("capabilities")
    @classmethod
    def _sort(cls, names: list[str]) -> list[str]:
        return sorted(set(names))

    def model_post_init(self, _context: Any) -> None:
        """A demand names a pool or a pair, and a pair has two sides."""
        if (self.src_lang is None) != (self.tgt_lang is None):
            raise ValueError("src_lang and tgt_lang come together: give both or neither")
        if self.pool is None and self.src_lang is None:
            raise ValueError("nothing is asked for: give a pool, or src_lang and tgt_lang")
        self.pairs  # noqa: B018 - raises for a language that is none

    @property
    def where(self) -> str:
        """Which pools will do, as the scripts read it: see lua/include/demand.lua."""
        pairs = "|".join(self.pairs)
        return f"{self.pool}={pairs}" if self.pool and pairs else self.pool or pairs

    @property
    def pairs(self) -> list[str]:
        """The pairs to look up, the first that some pool serves wins."""
        if self.src_lang is None or self.tgt_lang is None:
            return []
        one, colon, other = self.tgt_lang.partition(":")
        if colon and self.src_lang != "auto":
            raise ValueError(f"a pair as tgt_lang ({self.tgt_lang!r}) needs 'auto' as src_lang")
        if colon:
            return [f"{_lang(one)}:{_lang(other)}", f"{other}:{one}"]
        return [f"{self.src_lang}:{_lang(self.tgt_lang)}"]


class DispatchResponse(_Model):
    """Where a job went, and why there."""

    #: "" for a job that waits.
    node_id: str
    job_id: str
    pool: str = ""
    #: ``preferred`` (the caller's node), ``sticky`` (the session's), or ``least_loaded``; of a job
    #: without a node ``busy``, ``impossible`` (no registered node could do it), or ``delayed``.
    chosen_by: str = ""


class CompleteTaskRequest(_Model):
    """The end of a job on a node; ``reason`` says more than the status where there is more."""

    job_id: JobId
    node_id: Name
    status: Literal["finished", "failed"]
    reason: Printable = Field(default="", max_length=200)
    #: Of the job's message, which the node had kept until now; "" where there is none.
    delivery_tag: Printable = Field(default="", max_length=255)
    #: The claim by which the node ran the job; "" for none. A later claim makes this one void.
    claim: Printable = Field(default="", max_length=64)


class CompleteTaskResponse(_Model):
    """``already_ended`` is true where the job had ended before; then nothing was changed."""

    job_id: str
    already_ended: bool
