"""The fleet's times, which all of its processes go by: ``node_ttl``, ``lease`` and so on.

They lie in Redis, in one key, and the scripts read them there. So no process can take nodes offline
or end leases by settings of its own. A node states its settings as the fleet's when it registers
and no node lives.
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

#: In this order, and in milliseconds, as lua/include/context.lua reads them.
_SECONDS: Final = ("node_ttl", "lease", "history_ttl", "session_ttl")
#: As the scripts read them, in lua/include/context.lua.
_TIMES: Final = re.compile("[0-9]{1,15}(?: [0-9]{1,15}){4}")


def to_text(settings: Settings) -> str:
    """The times as they lie in Redis."""
    milliseconds = (str(round(getattr(settings, name) * 1000)) for name in _SECONDS)
    return " ".join((*milliseconds, str(settings.max_rescues)))


def look_up(client: redis.Redis, keys: Keys) -> str | None:
    """The fleet's times; ``None`` if no node has registered yet."""
    [answer] = ask(client, [("GET", keys("times"))])
    found: str | None = text(answer)
    return found


def agree(client: redis.Redis, keys: Keys, settings: Settings) -> str:
    """The fleet's times. If no node lives, these settings are the fleet's from now on."""
    return str(scripts.call(client, keys, "agree_times", times=to_text(settings))[1])


def is_readable(fleet: str) -> bool:
    """Are these the fleet's times? If not, each process uses its own, and so do the scripts."""
    return bool(_TIMES.fullmatch(fleet))


def settings_of_fleet(own: Settings, fleet: str | None) -> Settings:
    """A process's settings with the fleet's times. Heartbeats are as frequent as these need."""
    if fleet is None or fleet == to_text(own) or not is_readable(fleet):
        return own
    *milliseconds, rescues = map(int, fleet.split(" "))
    seconds = (value / 1000 for value in milliseconds)
    times: dict[str, float] = dict(zip(_SECONDS, seconds, strict=True)) | {"max_rescues": rescues}
    interval = min(own.heartbeat_interval, times["node_ttl"] / 4)
    return own.model_copy(update={**times, "heartbeat_interval": interval})


def warn_of_differences(own: Settings, fleet: Settings) -> None:
    """Log which settings of this process differ from the fleet's, and what to do."""
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
