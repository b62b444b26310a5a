"""A process with publishers: ``python -m tests.support.publishers URL JOBS THREADS FIRST``.

Each thread sends its share of the jobs FIRST, FIRST + 1, … one by one, as applications do.
"""

from __future__ import annotations

import sys
from threading import Thread

from .fleet import make_app


def publish(url: str, jobs: int, threads: int, first: int) -> None:
    app = make_app(url, result_backend="disabled://")
    app.conf.task_publish_retry_policy = {"max_retries": 20}  # the machine may be slow
    app.amqp  # noqa: B018 - made once, before the threads

    def send(numbers: range) -> None:
        for number in numbers:
            # Few fairness keys, so that they compete. Every tenth job has a priority.
            demand = {"pool": "asr", "fairness_key": f"tenant-{number % 7}"}
            app.send_task(
                "tests.support.app.mark",
                ("crowd", number),
                minsched=demand,
                ignore_result=True,
                priority=9 if number % 10 == 0 else 0,
            )

    numbers = range(first, first + jobs)
    senders = [Thread(target=send, args=(numbers[n::threads],)) for n in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


if __name__ == "__main__":
    publish(sys.argv[1], *map(int, sys.argv[2:]))
