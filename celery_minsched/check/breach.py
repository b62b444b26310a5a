"""What a check finds."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

#: What a repair can put right, in that order.
KINDS: Final = ("node", "line", "job", "key", "member")


class Breach(BaseModel):
    """Something in Redis that does not fit together with the rest."""

    model_config = ConfigDict(frozen=True)

    code: str
    sentence: str
    #: The Redis keys concerned.
    keys: tuple[str, ...]
    #: What to do about one that a repair cannot mend.
    remedy: str = ""
    #: What a repair puts right, and where it was seen: one of ``KINDS``, and the arguments of its
    #: ``repair_...`` in the scheduler. Empty where no repair can.
    subject: tuple[str, ...] = Field(default=(), exclude=True)

    def __str__(self) -> str:
        return self.sentence
