"""What lies in Redis has a layout, and the layout a number, so that nobody misreads it.

The number stands in one key. A node notes it as it registers; a node and an application look at it
once, as they start. Layout 1, the original specification's, has no number: it is known by its
jobs, since in this one whoever gives a job its id also counts it.
"""

from __future__ import annotations

from typing import Final

import redis

from .errors import WrongLayout
from .keys import Keys
from .stored import ask_each, integer, is_wrong_type
from .texts import text

LAYOUT: Final = 2
SPECIFIED: Final = 1  # the original specification's


def layout_of(client: redis.Redis, keys: Keys) -> int | None:
    """The number of the layout in Redis; ``None`` where nothing says which it is."""
    [noted] = ask_each(client, [("GET", keys("layout"))])
    if noted is not None:
        found = integer(None if is_wrong_type(noted) else text(noted))
        if found is None:
            raise WrongLayout(
                key=keys("layout"), found="no number", layout=LAYOUT, remedy=_UNREADABLE
            )
        return found
    if client.exists(keys("turn"), keys("counts")):
        return LAYOUT
    return SPECIFIED if client.exists(keys("job_id_seq")) else None


def check_layout(client: redis.Redis, keys: Keys) -> None:
    """Raise :class:`WrongLayout` where Redis has another layout than this version's."""
    found = layout_of(client, keys)
    if found not in (None, LAYOUT):
        older = found < LAYOUT
        raise WrongLayout(
            key=keys("layout"), found=found, layout=LAYOUT, remedy=_OLDER if older else _NEWER
        )


def note_layout(client: redis.Redis, keys: Keys) -> None:
    """Note this version's layout where none is noted. Raises :class:`WrongLayout`."""
    check_layout(client, keys)
    if not client.exists(keys("layout")):  # Redis without memory refuses the write
        client.set(keys("layout"), LAYOUT, nx=True)


_UNREADABLE = (
    "Nothing was changed. No version of celery-minsched writes such a value. If all nodes have "
    "this version, DEL the key: a node writes it anew when it registers."
)
_OLDER = (
    "Nothing was changed. Stop the nodes and the applications of the earlier version, and run "
    "celery -A APP minsched migrate; both versions cannot run side by side."
)
_NEWER = (
    "Nothing was changed. Install the celery-minsched that the other nodes run, or give this "
    "application a Redis database or a minsched_key_prefix of its own."
)
