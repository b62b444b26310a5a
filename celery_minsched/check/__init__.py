"""Does what is in Redis fit together? Names each breach with its keys, and mends it.

:class:`Checker` looks and changes nothing; :mod:`~celery_minsched.check.repair` mends. The rules:
:mod:`~celery_minsched.check.nodes` (a node and its indexes, invariants 1, 3 and 7),
:mod:`~celery_minsched.check.jobs` (a job and the places where it may be, invariant 2),
:mod:`~celery_minsched.check.lines`, :mod:`~celery_minsched.check.leftovers`,
:mod:`~celery_minsched.check.journal`.
:mod:`~celery_minsched.check.job_scan` reads the jobs once and says which of them to read again.
"""

from .breach import Breach
from .checker import Checker
from .look import Tell
from .repair import repair

__all__ = ["Breach", "Checker", "Tell", "repair"]
