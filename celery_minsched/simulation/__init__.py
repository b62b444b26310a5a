"""A fleet that is not there, tried with the real scripts: what if there were four nodes more?

:func:`simulate` plays jobs against a Redis of its own, by a clock that jumps from one event to the
next. Nodes and publishers are played; whatever decides is the scripts of :mod:`celery_minsched`.
"""

from .play import simulate
from .result import Result
from .trace import Job, Node

__all__ = ["Job", "Node", "Result", "simulate"]
