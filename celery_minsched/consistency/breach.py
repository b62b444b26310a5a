"""What a check finds."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

#: What a repair can put right, in that order: slots come first, since one that a job has lost looks
#: free to everybody else.
KINDS: Final = ("slot", "node", "line", "count", "job", "key", "ttl", "member", "field")


class Breach(BaseModel):
    """Something in Redis that does not fit together with the rest."""

    model_config = ConfigDict(frozen=True)

    code: str
    sentence: str
    #: The Redis keys concerned.
    keys: tuple[str, ...]
    #: What to do about one that a repair cannot mend.
    remedy: str = ""
    #: What a repair puts right: one of ``KINDS``, its name, and where else it was seen, as
    #: :mod:`celery_minsched.consistency.repair` takes them. Empty where no repair can.
    subject: tuple[str, ...] = Field(default=(), exclude=True)

    def __str__(self) -> str:
        return self.sentence
