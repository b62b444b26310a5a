"""How many bytes does a worker send to Redis for each message of 1 MB?

The worker's connections go through a proxy that counts bytes. The worker is ready before the first
message is published. The count includes the heartbeats of the worker. It does not include the bytes
of the publisher.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import click

from benchmarks.common import print_machine, print_table, wait_for
from benchmarks.contenders import CONTENDERS, CeleryPublisher
from benchmarks.network import network
from benchmarks.workers import await_notes, logs, workers
from celery_minsched.simulation.trace import Job, Node
from tests.support.server import Server

POOL = "asr"
SIZE = 1_000_000  # bytes of an argument
WARM = 20  # small messages before, with which the worker loads its scripts


def measure(kind: str, messages: int, size: int) -> float:
    """The bytes that a worker sends for each message of that size."""
    nodes = [Node("node", 1, (POOL,))]
    with (
        closing(Server()) as server,
        network(server.port) as proxy,
        closing(CeleryPublisher(kind, server.url, nodes)) as sender,
        workers(kind, nodes, f"redis://127.0.0.1:{proxy.port}/0") as directory,
    ):
        wait_for(
            lambda: sender.is_ready(directory),
            lambda: f"the worker did not start:\n{logs(directory)}",
        )
        for number in range(WARM):
            sender.send(number, Job(0.0, 0.0, POOL))
        await_notes(directory, WARM)
        sender.check()
        before = proxy.sent
        for number in range(WARM, WARM + messages):
            sender.send(number, Job(0.0, 0.0, POOL), payload="x" * size)
        await_notes(directory, WARM + messages)
        sender.check()
        return (proxy.sent - before) / messages


@click.command()
@click.option("--contender", "kinds", multiple=True, type=click.Choice([*CONTENDERS]))
@click.option("--messages", default=20, help="Messages to publish.")
@click.option("--size", default=SIZE, help="Bytes of a message's argument.")
def main(kinds: Sequence[str], messages: int, size: int) -> None:
    """Bytes that a worker sends for each message."""
    print_machine()
    print_table(
        f"{messages} messages with an argument of {size:,} bytes",
        ["", "bytes sent for a message"],
        [
            [CONTENDERS[kind], f"{measure(kind, messages, size):,.0f}"]
            for kind in kinds or CONTENDERS
        ],
    )


if __name__ == "__main__":
    main()
