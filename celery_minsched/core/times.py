"""The fleet's times: ``node_ttl``, ``lease`` and others, the same for all of its processes.

One key of Redis has the times, and the scripts read this key. So no process can take nodes offline
or end leases by its own settings. If no node lives, a node that registers makes its settings the
fleet's.
"""

from __future__ import annotations

import logging
import re
from typing import Final

import redis

from . import scripts
from .keys import Keys
from .settings import PREFIX, Settings
from .stored import ask
from .texts import text

logger = logging.getLogger(__name__)

#: The times in the order of the key's value, which has milliseconds (see lua/include/context.lua).
_SECONDS: Final = ("node_ttl", "lease", "history_ttl", "session_ttl")
#: The value that lua/include/context.lua can read.
_TIMES: Final = re.compile("[0-9]{1,15}(?: [0-9]{1,15}){4}")


def to_text(settings: Settings) -> str:
    """The times as the value of their key."""
    milliseconds = (str(round(getattr(settings, name) * 1000)) for name in _SECONDS)
    return " ".join((*milliseconds, str(settings.max_rescues)))


def look_up(client: redis.Redis, keys: Keys) -> str | None:
    """The fleet's times in Redis, or ``None`` if no node has registered yet."""
    [answer] = ask(client, [("GET", keys("times"))])
    fleet: str | None = text(answer)
    return fleet


def agree(client: redis.Redis, keys: Keys, settings: Settings) -> str:
    """The fleet's times in Redis. If no node lives, these settings become the fleet's."""
    return str(scripts.call(client, keys, "agree_times", times=to_text(settings))[1])


def is_readable(fleet: str) -> bool:
    """Is the key's value readable? If not, the scripts use the times of each caller."""
    return bool(_TIMES.fullmatch(fleet))


def settings_of_fleet(own: Settings, fleet: str | None) -> Settings:
    """A process's settings with the fleet's times, and heartbeats frequent enough for them."""
    if fleet is None or fleet == to_text(own) or not is_readable(fleet):
        return own
    *milliseconds, rescues = map(int, fleet.split(" "))
    seconds = (value / 1000 for value in milliseconds)
    times: dict[str, float] = dict(zip(_SECONDS, seconds, strict=True)) | {"max_rescues": rescues}
    interval = min(own.heartbeat_interval, times["node_ttl"] / 4)
    return own.model_copy(update={**times, "heartbeat_interval": interval})


def warn_of_differences(own: Settings, fleet: Settings) -> None:
    """Log the settings of this process that differ from the fleet's, and the remedy."""
    differences = [
        f"{PREFIX}{name} is {getattr(own, name):g} here and {getattr(fleet, name):g} in the fleet"
        for name in (*_SECONDS, "heartbeat_interval", "max_rescues")
        if getattr(own, name) != getattr(fleet, name)
    ]
    if differences:
        logger.warning(
            "This process's settings differ from the fleet's times, and it uses the fleet's: %s. "
            "Give all processes the same settings. To change the fleet's, stop all nodes and start "
            "them with the new values.",
            "; ".join(differences),
        )
