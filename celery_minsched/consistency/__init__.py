"""Does what is in Redis fit together? Names each breach with its keys, and mends it.

:class:`Checker` looks and changes nothing. :mod:`.repair` mends. The rules:
:mod:`.nodes` (a node and its indexes, invariants 1, 3 and 7),
:mod:`.jobs` (a job and the places where it may be, invariant 2), :mod:`.lines`,
:mod:`.leftovers`, :mod:`.journal`. :mod:`.job_scan` reads all jobs once and names those to read
again.
"""

from .breach import Breach
from .checker import Checker
from .look import Tell
from .repair import repair

__all__ = ["Breach", "Checker", "Tell", "repair"]
