"""``celery -A app minsched …``: commands of Celery's own command line, faces over the views.

Celery finds them by its entry point group ``celery.commands`` (celery 5.7, celery/bin/celery.py).
Each is a module of its own, and is added here.

Exit codes: 0 all is well, 1 it is not, 2 the question could not be asked.
"""

from .check import check
from .group import minsched

minsched.add_command(check)

__all__ = ["minsched"]
