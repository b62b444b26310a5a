"""How much faster is ``dispatch_many`` than one ``apply_async`` for each task?

For comparison, plain Celery makes one call after the other, and also sends the same messages in a
batch of kombu. No worker runs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import click
from celery import Celery, Signature

from benchmarks.common import Figure, check, print_machine, print_table
from benchmarks.network import network
from celery_minsched import MinSched, RegisterNodeRequest
from tests.support.server import Server

DAY = 86400.0  # seconds
MOST_SLOTS = 4000
SLOTS = {"free": MOST_SLOTS, "taken": 1}  # of the node
ONE_BY_ONE, MANY, PLAIN = "one by one", "dispatch_many", "plain, one by one"


def ways(ours: Celery, plain: Celery, tasks: int) -> dict[str, Callable[[], Any]]:
    """Functions that send a number of tasks, by name. They return the results."""
    demanding = _signatures(ours, tasks, minsched={"pool": "asr"})
    simple = _signatures(plain, tasks)

    def batched() -> list[Any]:
        with plain.producer_or_acquire() as producer, producer.batch():
            return [task.apply_async(producer=producer) for task in simple]

    return {
        ONE_BY_ONE: lambda: [task.apply_async() for task in demanding],
        MANY: lambda: ours.minsched.dispatch_many(demanding),
        PLAIN: lambda: [task.apply_async() for task in simple],
        "plain, batched": batched,
    }


def _signatures(app: Celery, tasks: int, **options: object) -> list[Signature]:
    def work(number: int) -> None: ...

    task = app.task(name="bulk.work", shared=False, **options)(work)
    return [task.s(number) for number in range(tasks)]


@contextmanager
def applications(port: int) -> Iterator[tuple[Celery, Celery]]:
    """An application with the scheduler and one without, on the server at the port."""
    url = f"redis://127.0.0.1:{port}/0"
    ours = Celery("ours", broker=url, backend=url, set_as_current=False)
    ours.conf.update(minsched_node_ttl=DAY, minsched_lease=DAY, minsched_history_ttl=2 * DAY)
    MinSched(ours)
    with ours, Celery("plain", broker=url, backend=url, set_as_current=False) as plain:
        yield ours, plain


def measure(
    server: Server, port: int, slots: int, tasks: int, rounds: int
) -> dict[str, list[float]]:
    """The time of a task in ms in each round, for each way of sending. The ways take turns.

    The server has one node. Each application has sent one task, so it is connected, and one slot is
    taken.
    """
    times: defaultdict[str, list[float]] = defaultdict(list)
    with applications(port) as (ours, plain), server.client() as client:
        node = RegisterNodeRequest(node_id="node", max_jobs=slots, pools_json='["asr"]')
        for name, send in [*ways(ours, plain, tasks).items()] * rounds:
            client.flushall()
            ours.minsched.scheduler.register_node(node)
            ours.send_task("bulk.work", (0,))
            plain.send_task("bulk.work", (0,))
            began = time.perf_counter()
            results = send()
            times[name].append((time.perf_counter() - began) * 1000 / tasks)
            del results  # after the measurement, because this ends the subscriptions
            check(ours.minsched.views)
    return times


def faster(times: Mapping[str, Sequence[float]], way: str) -> Figure:
    """The time of the way divided by the time of ``dispatch_many``, round by round."""
    pairs = zip(times[way], times[MANY], strict=True)
    return Figure.of([slow / many for slow, many in pairs])


@click.command()
@click.option(
    "--tasks", default=1000, type=click.IntRange(1, MOST_SLOTS - 1), help="Tasks in a round."
)
@click.option("--rounds", default=5, help="Rounds of each way.")
@click.option("--round-trip", default=1.0, help="Round trip of a simulated network, ms.")
def main(tasks: int, rounds: int, round_trip: float) -> None:
    """Measure the time to send a task in ms, for each way of sending."""
    print_machine()
    by_place = {}
    with closing(Server()) as server, network(server.port, round_trip / 1000) as remote:
        for place, port in (("here", server.port), (f"{round_trip:g} ms away", remote.port)):
            for state, slots in SLOTS.items():
                times = measure(server, port, slots, tasks, rounds)
                by_place[f"{place}, slots {state}"] = times
    print_times(by_place, tasks)


def print_times(by_place: Mapping[str, Mapping[str, Sequence[float]]], tasks: int) -> None:
    """Print a row for each place of the server and state of the slots."""
    rows = [
        [place, *map(Figure.of, times.values()), faster(times, ONE_BY_ONE), faster(times, PLAIN)]
        for place, times in by_place.items()
    ]
    ways = next(iter(by_place.values()))
    print_table(
        f"Sending {tasks:,} tasks; ms a task: median (middle half of the rounds)",
        ["Redis", *ways, *(f"{way} / {MANY}" for way in (ONE_BY_ONE, PLAIN))],
        rows,
    )


if __name__ == "__main__":
    main()
