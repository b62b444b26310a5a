"""The number of the layout in Redis. With it, no version misreads the keys of another version.

A node writes the number when it registers. Nodes and applications read it once, when they start.
Layout 1, the original specification's, has no number. Its sign is a job counter without the
counters that this layout always writes with it.
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
    """The number of the layout in Redis, or ``None`` for a database without the scheduler's keys.

    Raises :class:`WrongLayout` for a value that is not a number.
    """
    [number] = ask_each(client, [("GET", keys("layout"))])
    if number is not None:
        layout = integer(None if is_wrong_type(number) else text(number))
        if layout is None:
            raise WrongLayout(
                key=keys("layout"), found="no number", layout=LAYOUT, remedy=_UNREADABLE
            )
        return layout
    if client.exists(keys("turn"), keys("counts")):
        return LAYOUT
    return SPECIFIED if client.exists(keys("job_id_seq")) else None


def check_layout(client: redis.Redis, keys: Keys) -> None:
    """Raise :class:`WrongLayout` if Redis has another layout than this version's."""
    layout = layout_of(client, keys)
    if layout not in (None, LAYOUT):
        older = layout < LAYOUT
        raise WrongLayout(
            key=keys("layout"), found=layout, layout=LAYOUT, remedy=_OLDER if older else _NEWER
        )


def note_layout(client: redis.Redis, keys: Keys) -> None:
    """Write this version's number if there is none. Raises :class:`WrongLayout`."""
    check_layout(client, keys)
    if not client.exists(keys("layout")):  # a Redis without free memory refuses SET
        client.set(keys("layout"), LAYOUT, nx=True)


_UNREADABLE = (
    "Nothing was changed. No version of celery-minsched writes such a value. If all nodes have "
    "this version, DEL the key. A node writes it again when it registers."
)
_OLDER = (
    "Nothing was changed. Stop the nodes and the applications of the earlier version, and run "
    "celery -A APP minsched migrate. The two versions cannot run at the same time."
)
_NEWER = (
    "Nothing was changed. Install the celery-minsched that the other nodes run, or give this "
    "application its own Redis database or its own minsched_key_prefix."
)
