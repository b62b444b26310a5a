"""A demand: the requirements of a task for its node.

Celery users write it as a dict with the keys of :class:`Demand`: in ``minsched_routes``, on the
task (``@app.task(minsched={...})``) and per call (``apply_async(minsched={...})``). A call
overrides the task, and the task overrides a route, key by key. ``None`` removes a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from .describe import did_you_mean, sentence_of
from .errors import InvalidDemand
from .field_types import MAX_CAPABILITIES, Lang, Model, Name, SessionId, check_lang
from .selector import Selector


class Demand(Model):
    """The demand of a job: a pool or a language pair, and optionally more.

    ``src_lang`` may be "auto". ``tgt_lang`` is then a pair, "zh:en": speech in either of the two
    languages. The scheduler looks up the pools that serve zh to en, or else en to zh. A pool that
    lists language pairs serves only these. A pool that lists none serves all.

    Each field is stored in the job's record, see :func:`.job_fields.demand_fields`.
    """

    pool: Name | None = None
    src_lang: Lang | None = None
    tgt_lang: str | None = None
    #: Jobs of a session prefer the node of the session's latest job.
    session_id: SessionId = ""
    preferred_node: Name | None = None
    #: The node must have all these capabilities.
    capabilities: list[Name] = Field(default=[], max_length=MAX_CAPABILITIES)
    #: ``prefer``: prefers the session's node. ``require``: requires the preferred node or the
    #: session's node while that node works. ``none``: ignores the session's node.
    affinity: Literal["prefer", "require", "none"] = "prefer"
    #: Jobs in one line take turns by this key. ``None``: by their session.
    fairness_key: SessionId | None = None
    #: If no slot is free: ``wait`` in line, or ``error``. ``None``: see ``minsched_when_full``.
    when_full: Literal["wait", "error"] | None = None

    @field_validator("capabilities")
    @classmethod
    def _sort(cls, names: list[str]) -> list[str]:
        return sorted(set(names))

    def model_post_init(self, _context: Any) -> None:
        """Check the fields together: a pool or a pair is needed, and a pair has two languages."""
        if (self.src_lang is None) != (self.tgt_lang is None):
            raise ValueError("src_lang and tgt_lang come together: give both or neither")
        if self.pool is None and self.src_lang is None:
            raise ValueError("the demand is empty: give a pool, or src_lang and tgt_lang")
        self.pairs  # noqa: B018 - raises ValueError for a wrong language

    @property
    def pool_selector(self) -> str:
        """The pools that may run the job, as a selector. See :mod:`.selector`."""
        return str(Selector(self.pool or "", tuple(self.pairs)))

    @property
    def pairs(self) -> list[str]:
        """The language pairs "src:tgt" to look up. The first that a pool serves counts."""
        if self.src_lang is None or self.tgt_lang is None:
            return []
        first, colon, second = self.tgt_lang.partition(":")
        if colon and self.src_lang != "auto":
            raise ValueError(f"a pair as tgt_lang ({self.tgt_lang!r}) needs 'auto' as src_lang")
        if colon:
            return [f"{check_lang(first)}:{check_lang(second)}", f"{second}:{first}"]
        return [f"{self.src_lang}:{check_lang(self.tgt_lang)}"]


def merge(*demands: object) -> dict[str, Any]:
    """Merge demands into one dict.

    A later demand overrides an earlier one, key by key. ``None`` removes a key.

    Raises :class:`InvalidDemand` for a demand that is not a dict.
    """
    merged: dict[str, Any] = {}
    for demand in demands:
        if demand is None:
            continue
        if not isinstance(demand, Mapping):
            raise InvalidDemand(
                message=f'minsched={demand!r} is not a dict such as {{"pool": "asr"}}'
            )
        merged.update(demand)
    return {key: value for key, value in merged.items() if value is not None}


def parse(demand: Mapping[str, Any]) -> Demand:
    """The checked demand. Raises :class:`InvalidDemand`, which names the key and the value."""
    text = text_of(demand)
    return _parse(demand) if text is None else _parse_text(text)


def text_of(demand: Mapping[str, Any]) -> str | None:
    """The demand as JSON, which is its key in a cache.

    ``None`` if it is not JSON. No message can carry it then, and pydantic names the wrong value.
    """
    try:
        return json.dumps(demand)
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=1024)
def _parse_text(text: str) -> Demand:
    """Parse a demand, with a cache. A check takes 60 µs, and most demands recur."""
    return _parse(json.loads(text))


def _parse(demand: Mapping[str, Any]) -> Demand:
    for key in demand:
        if key not in Demand.model_fields:
            raise InvalidDemand(
                message=f"a demand has no key {key!r}.{did_you_mean(key, Demand.model_fields)} "
                f"Its keys are {', '.join(Demand.model_fields)}."
            )
    try:
        return Demand.model_validate(dict(demand))
    except ValidationError as exc:
        raise invalid_demand(exc) from None


def invalid_demand(exc: ValidationError) -> InvalidDemand:
    """The error for a demand that a model refuses. It names each key and its value."""
    return InvalidDemand(message=sentence_of(exc, _key_and_value))


def _key_and_value(error: ErrorDetails) -> str:
    return f"{'.'.join(map(str, error['loc']))} = {error['input']!r}"
