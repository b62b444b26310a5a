"""The violations that a check finds."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

#: The objects that a repair can mend, in its order. Slots come first: every other repair sees a
#: missing slot as a free one.
KINDS: Final = ("slot", "node", "line", "count", "job", "key", "ttl", "member", "field")


class Violation(BaseModel):
    """A place in Redis that contradicts another place."""

    model_config = ConfigDict(frozen=True)

    code: str
    sentence: str
    #: The Redis keys concerned.
    keys: tuple[str, ...]
    #: The action of an operator if a repair cannot mend the violation.
    remedy: str = ""
    #: The object to repair: one of ``KINDS`` and the arguments of its repair in :mod:`.repair`.
    #: Empty if no repair can mend it.
    subject: tuple[str, ...] = Field(default=(), exclude=True)

    def __str__(self) -> str:
        return self.sentence
