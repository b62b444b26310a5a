"""The work of a replayed job with all contenders. It simulates seconds of work on a GPU."""

from __future__ import annotations

import fcntl
import os
import time

#: Factor of the work time if the node has to load the session first.
COLD = 1.5


def work(number: int, seconds: float, session: str = "", payload: str = "") -> None:
    """Work for some seconds, and record the start and the end."""
    began = time.time()
    if session and not is_warm(session):
        seconds *= COLD
    time.sleep(seconds)
    line = f"{number} {began:.6f} {time.time():.6f}\n"
    with open(os.environ["REPLAY_NOTES"], "a", encoding="ascii") as notes:  # one write at the end
        notes.write(line)


def is_warm(session: str) -> bool:
    """True if the session is in the node's cache. Puts it into the cache."""
    path, size = os.environ["REPLAY_CACHE"], int(os.environ["REPLAY_CACHED"])
    # All threads and processes of the node share the file.
    with open(path, "a+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        sessions = file.read().split()
        is_cached = session in sessions
        latest = [session, *(other for other in sessions if other != session)][:size]
        file.truncate(0)
        file.write(" ".join(latest))
    return is_cached
