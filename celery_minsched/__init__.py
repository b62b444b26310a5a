"""A Celery plugin: each task goes to the least-loaded node that can do it and has a free slot."""

from .errors import (
    Backlogged,
    EmptyPool,
    InvalidDemand,
    MaxRescuesExceededError,
    NoAvailableNode,
    NodeIdInUse,
    NodeLostError,
    NodeMismatch,
    NoPoolForLangPair,
    SchedulerError,
    UnknownJob,
    UnknownNode,
    WrongLayout,
)
from .models import (
    CompleteTaskRequest,
    CompleteTaskResponse,
    DispatchRequest,
    DispatchResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
)
from .ownership import still_mine
from .plugin import MinSched
from .router import MinSchedRouter
from .scheduler import MinimalSchedulerService
from .settings import Settings

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
