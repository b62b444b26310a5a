"""A demand: what a task asks of the node that runs it, from where Celery users state things.

A demand is a dict with the keys of :class:`Demand`. It is stated in ``minsched_routes``, on the
task (``@app.task(minsched={...})``) and per call (``apply_async(minsched={...})``); the nearer wins
key by key, and ``None`` takes a key back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, ValidationError

from .errors import InvalidDemand
from .models import DispatchRequest, Lang, Name, SessionId, _Model


class Demand(_Model):
    """What a job asks for; see :class:`~.models.DispatchRequest` for the fields."""

    pool: Name | None = None
    src_lang: Lang | None = None
    tgt_lang: str | None = None
    session_id: SessionId = ""
    preferred_node: Name | None = None
    capabilities: list[Name] = Field(default=[])
    affinity: Literal["prefer", "require", "none"] = "prefer"
    fairness_key: SessionId | None = None
    #: What to do when every slot is taken; ``None``: as ``minsched_when_full`` says.
    when_full: Literal["wait", "error"] | None = None

    def request(
        self, default_when_full: Literal["wait", "error"] = "wait", task_name: str = "", **job: Any
    ) -> DispatchRequest:
        """The demand of one job, as the scheduler takes it. The payload names the task only."""
        when_full = self.when_full or default_when_full
        return DispatchRequest(
            **self.model_dump(exclude={"when_full"}),
            when_full=when_full,
            payload_json=json.dumps({"task": task_name}),
            **job,
        )


def merge(*stated: object) -> dict[str, Any]:
    """One dict of demands from far to near. Raises :class:`InvalidDemand` for what is no dict."""
    merged: dict[str, Any] = {}
    for demand in stated:
        if demand is None:
            continue
        if not isinstance(demand, Mapping):
            raise InvalidDemand(message=f'minsched={demand!r} is no dict such as {{"pool": "asr"}}')
        merged.update(demand)
    return {key: value for key, value in merged.items() if value is not None}


def parse(stated: Mapping[str, Any]) -> Demand:
    """A checked demand. Raises :class:`InvalidDemand`, which names the key and the value."""
    try:
        text = json.dumps(stated)
    except (TypeError, ValueError):  # no message could carry it; say what else is wrong with it
        return _parse(stated)
    return _parse_text(text)


@lru_cache(maxsize=1024)
def _parse_text(text: str) -> Demand:
    """Each message's demand is checked twice, and many messages have the same: some 60 µs each."""
    return _parse(json.loads(text))


def _parse(stated: Mapping[str, Any]) -> Demand:
    for key in stated:
        if key not in Demand.model_fields:
            close = get_close_matches(key, Demand.model_fields, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(Demand.model_fields)
            raise InvalidDemand(message=f"a demand has no key {key!r}.{hint} It has {known}.")
    try:
        demand = Demand.model_validate(dict(stated))
        demand.request()  # what only the whole shows: no pool and no pair, half a pair
    except ValidationError as exc:
        raise InvalidDemand(message=sentence_of(exc)) from None
    return demand


def sentence_of(exc: ValidationError) -> str:
    """Says in words why a demand is refused."""
    return "; ".join(
        f"{'.'.join(map(str, error['loc'])) or 'the demand'}: {error['msg']}"
        f" (given: {error['input']!r})"
        for error in exc.errors()
    )
