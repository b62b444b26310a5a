"""Does what is in Redis fit together? Names each breach with its keys, and mends it.

:class:`Checker` looks and changes nothing; :mod:`~celery_minsched.check.repair` mends. The rules:
:mod:`~celery_minsched.check.nodes` (a node and its indexes, invariants 1, 3 and 7),
:mod:`~celery_minsched.check.jobs` (a job and the places where it may be, invariant 2),
:mod:`~celery_minsched.check.lines`.
"""

from .breach import Breach
from .checker import Checker
from .repair import repair

__all__ = ["Breach", "Checker", "repair"]
