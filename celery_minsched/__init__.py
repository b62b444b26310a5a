"""A Celery plugin: each task goes to the least-loaded node that can do it and has a free slot."""

from .core.errors import (
    Backlogged,
    EmptyPool,
    InvalidDemand,
    NoAvailableNode,
    NodeIdInUse,
    NodeMismatch,
    NoPoolForLangPair,
    SchedulerError,
    UnknownJob,
    UnknownNode,
    WrongLayout,
)
from .core.models import (
    CompleteTaskRequest,
    CompleteTaskResponse,
    DispatchRequest,
    DispatchResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
)
from .core.scheduler import MinimalSchedulerService
from .core.settings import Settings
from .plugin.ownership import still_mine
from .plugin.plugin import MinSched
from .plugin.result_errors import MaxRescuesExceededError, NodeLostError
from .plugin.router import MinSchedRouter

__version__ = "0.1.0"

__all__ = [
    "Backlogged",
    "CompleteTaskRequest",
    "CompleteTaskResponse",
    "DispatchRequest",
    "DispatchResponse",
    "EmptyPool",
    "HeartbeatRequest",
    "HeartbeatResponse",
    "InvalidDemand",
    "MaxRescuesExceededError",
    "MinSched",
    "MinSchedRouter",
    "MinimalSchedulerService",
    "NoAvailableNode",
    "NoPoolForLangPair",
    "NodeIdInUse",
    "NodeLostError",
    "NodeMismatch",
    "RegisterNodeRequest",
    "RegisterNodeResponse",
    "SchedulerError",
    "Settings",
    "UnknownJob",
    "UnknownNode",
    "WrongLayout",
    "still_mine",
]
