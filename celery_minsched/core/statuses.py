"""The statuses of a job, and sets of statuses."""

from __future__ import annotations

from typing import Final

#: The job has no slot. Its message is in the job's own list. (lua/include/job.lua has the same.)
UNASSIGNED: Final = ("parked", "waiting", "delayed")
#: The job holds a slot of its node.
HAS_SLOT: Final = ("dispatched", "running")
ENDED: Final = ("finished", "failed", "lost")

STATUSES: Final = (*UNASSIGNED, *HAS_SLOT, *ENDED)
