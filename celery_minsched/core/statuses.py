"""The statuses of a job, and the sets of them that have a meaning."""

from __future__ import annotations

from typing import Final

#: The job has no slot. Its message lies in the job's own list. (lua/include/job.lua has the same.)
UNASSIGNED: Final = ("parked", "waiting", "delayed")
#: The job holds a slot of its node.
HAS_SLOT: Final = ("dispatched", "running")
ENDED: Final = ("finished", "failed", "lost")

STATUSES: Final = (*UNASSIGNED, *HAS_SLOT, *ENDED)
