"""The plugin's name in a message, in a call's options and on a task, and the queue of its route."""

from __future__ import annotations

from typing import Final

from kombu import Queue

#: Key of the scheduler's header in a message, of a demand in a call's options, and of a task's
#: attribute.
HEADER: Final = "minsched"

#: The queue of a task whose node is not chosen yet. No message is sent to it.
TO_BE_DISPATCHED: Final = Queue("minsched.dispatch", no_declare=True)
