"""From the layout of the original specification to this one; see docs/migration.md.

There a node's slots were a bare counter, jobs stayed for ever, and nobody knew which nodes there
were. :func:`survey` looks and changes nothing. :func:`carry_over` changes one thing at a time, each
in one step and so that doing it twice is doing it once, and notes the layout last: broken off
anywhere, it is run again. :mod:`~celery_minsched.migration.from_v1.history` keeps the jobs.
"""

from .carry import HELD, carry_over, heartbeats
from .history import History, HistoryError
from .survey import Survey, survey

__all__ = ["HELD", "History", "HistoryError", "Survey", "carry_over", "heartbeats", "survey"]
