"""Types of the models' fields: each value is checked before it reaches a key or a queue name.

Each id is bounded and has no character with a meaning in a key. JSON comes as text, and its type is
checked. A wrong value raises ``ValueError``. pydantic turns it into its ``ValidationError`` with
the name of the field.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

MAX_ID = 128
MAX_TASK_ID = 255
MAX_JSON = 64 * 1024
MAX_SLOTS = 4000  # the load order tells one slot apart up to here (see lua/include/node.lua)
MAX_OFFERS = 256  # pools x (capabilities + 1): the indexes that a dispatch updates for one node
MAX_CAPABILITIES = 8  # in one demand
MAX_TIME = 2**53 - 1  # ms since the epoch: the largest integer that Lua holds exactly

#: The resources of which a node reports the load.
RESOURCES: Final = ("cpu", "gpu", "mem")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")
_LANG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_JOB_ID = re.compile(rf"\S{{0,{MAX_ID}}}:[0-9]{{1,16}}")


class Model(BaseModel):
    """A model that cannot be changed and has no unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_length(value: str) -> None:
    if len(value) > MAX_ID:
        raise ValueError(f"{value[:40]!r}… has {len(value)} characters; at most {MAX_ID} fit")


def _matches(pattern: re.Pattern[str], kind: str, value: str) -> str:
    _check_length(value)
    if not pattern.fullmatch(value):
        raise ValueError(f"{value!r} is not a {kind}: it must match {pattern.pattern}")
    return value


def check_name(value: str) -> str:
    """The name of a node, a pool or a capability. Raises ``ValueError`` for any other text."""
    return _matches(_NAME, "name", value)


def check_lang(value: str) -> str:
    """One language of a pair. Raises ``ValueError`` for any other text."""
    return _matches(_LANG, "language", value)


def _check_session(value: str) -> str:
    _check_length(value)
    if not value.isprintable() or any(char.isspace() for char in value):
        raise ValueError(f"{value!r} has a space or an unprintable character")
    return value


def is_job_id(value: str) -> bool:
    """Has the text the form of a job's id: a session's id, a colon and a number?"""
    return value.isprintable() and bool(_JOB_ID.fullmatch(value))


def _check_job_id(value: str) -> str:
    if not is_job_id(value):
        raise ValueError(f"{value[:40]!r} is not a job id such as 'u42:17'")
    return value


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"{value[:40]!r} has an unprintable character")
    return value


def _check_time(value: int) -> int:
    if not 0 <= value <= MAX_TIME:
        raise ValueError(
            f"{value!r} is not a time: give milliseconds since the epoch, 0 to {MAX_TIME}"
        )
    return value


def _integers_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ``ValueError`` that shows the text."""
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters of JSON; at most {MAX_JSON} fit")
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ValueError(f"{text[:60]!r} is not JSON: {exc}") from None


def _check_json(text: str) -> str:
    parse_json(text)
    return text


def _check_json_object(text: str) -> str:
    if not isinstance(parse_json(text), dict):
        raise ValueError(f'{text[:60]!r} is not a JSON object such as {{"cpu": 12.5}}')
    return text


Name = Annotated[str, BeforeValidator(_integers_as_text), AfterValidator(check_name)]
Lang = Annotated[str, AfterValidator(check_lang)]
SessionId = Annotated[str, BeforeValidator(_integers_as_text), AfterValidator(_check_session)]
JobId = Annotated[str, AfterValidator(_check_job_id)]
Printable = Annotated[str, AfterValidator(_check_printable)]
Milliseconds = Annotated[int, AfterValidator(_check_time)]
JsonText = Annotated[str, AfterValidator(_check_json)]
JsonObject = Annotated[str, AfterValidator(_check_json_object)]
