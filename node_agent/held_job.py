"""A job that the node holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class HeldJob:
    """A job that the node holds."""

    tag: str  # the delivery tag of its message
    claim: str  # the name of the node's claim to it
    term: int | None = None  # the node's term when it claimed the job, see LastHeartbeat.term
    answer: tuple[str, dict[str, Any]] | None = None  # to the claim, if it is known already
    is_acknowledged: bool = False  # before the job ends
    has_slot: bool = True  # False if the job was revoked or expired while it waited
    is_begun: bool = False  # the pool has it
    has_ended: bool = False  # it has ended or ends now, and Redis does not know yet

    @property
    def stays(self) -> bool:
        """Does it stay at the node when the node hands back the jobs that have not begun?"""
        return self.is_begun or self.has_ended
