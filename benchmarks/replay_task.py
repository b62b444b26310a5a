"""What a job of the replay does, whatever runs it: it stands for seconds of a GPU's work."""

from __future__ import annotations

import fcntl
import os
import time

#: How much longer a job of a session takes where the node has to load that session first.
COLD = 1.5


def work(number: int, seconds: float, session: str = "") -> None:
    """Take so long, and note when that began and ended."""
    began = time.time()
    if session and not is_warm(session):
        seconds *= COLD
    time.sleep(seconds)
    line = f"{number} {began:.6f} {time.time():.6f}\n"
    with open(os.environ["REPLAY_NOTES"], "a", encoding="ascii") as notes:  # one write, at the end
        notes.write(line)


def is_warm(session: str) -> bool:
    """Is it one of the sessions that this node saw last? It is from now on."""
    path, size = os.environ["REPLAY_CACHE"], int(os.environ["REPLAY_CACHED"])
    with open(path, "a+", encoding="ascii") as file:  # of all the node's threads and processes
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        sessions = file.read().split()
        found = session in sessions
        latest = [session, *(other for other in sessions if other != session)][:size]
        file.truncate(0)
        file.write(" ".join(latest))
    return found
