"""What a fleet at rest costs Redis: the heartbeats of nodes that hold no jobs.

Each node has a connection of its own, and sends its heartbeats as far apart as the answers say. The
share of a core is the processor time of the whole server, so it includes reading the calls.
"""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Sequence
from typing import Any

import click
import redis

from benchmarks.common import machine, print_table, say
from celery_minsched import HeartbeatRequest, MinimalSchedulerService, RegisterNodeRequest, scripts
from celery_minsched.settings import Settings
from tests.server import Server

SIZES = (100, 1000, 3000, 10_000)
COLUMNS = ("nodes", "s between two", "us in the script", "% of a core")


@click.command()
@click.option("--nodes", "sizes", multiple=True, type=int, default=SIZES, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="How long to measure each.")
def main(sizes: Sequence[int], seconds: float) -> None:
    """Processor time of Redis by heartbeats alone."""
    server = Server()
    with server.client() as client:
        say(machine(client))
    server.close()
    print_table("A fleet at rest", COLUMNS, [at_rest(nodes, seconds) for nodes in sizes])


def at_rest(nodes: int, seconds: float) -> list[str]:
    """A row of the table, for a fleet of this size."""
    _allow_connections(nodes)
    server = Server("--maxclients", str(nodes + 100))
    client = server.client()
    scheduler = MinimalSchedulerService(client, Settings())
    for number in range(nodes):
        scheduler.register_node(
            RegisterNodeRequest(node_id=f"n{number}", max_jobs=8, pools_json='["p"]', instance="i")
        )
    interval = scheduler.heartbeat(HeartbeatRequest(node_id="n0", instance="i")).interval
    client.script_load(scripts.source("heartbeat"))
    calls = _Calls(scheduler)
    beats = [
        (redis.Connection(port=server.port), [calls.packed(f"n{number}", load) for load in (3, 40)])
        for number in range(nodes)
    ]
    _beat(beats, 0, 0.0)  # connects them
    client.config_resetstat()
    began, used, beat_number = time.perf_counter(), _used(client), 0
    while time.perf_counter() - began < seconds:
        beat_number += 1
        _beat(beats, beat_number % 2, interval)
    share = (_used(client) - used) / (time.perf_counter() - began)
    stats = client.info("commandstats")["cmdstat_evalsha"]
    for connection, _ in beats:
        connection.disconnect()
    client.close()
    server.close()
    row = (nodes, interval, stats["usec"] / stats["calls"], 100 * share)
    return [f"{row[0]:,}", f"{row[1]:g}", f"{row[2]:.0f}", f"{row[3]:.1f}"]


class _Calls(MinimalSchedulerService):
    """Makes heartbeats that can be sent again and again, without the work of making them."""

    def __init__(self, scheduler: MinimalSchedulerService) -> None:
        super().__init__(scheduler.redis, scheduler.settings)
        self._packer = redis.Connection()

    def packed(self, node_id: str, load: int) -> list[bytes]:
        """The bytes of a heartbeat, as a node without jobs sends it."""
        report = json.dumps({"cpu": load, "mem": 40.5})
        request = HeartbeatRequest(
            node_id=node_id,
            instance="i",
            load_json=report,
            jobs=[],
            rescues=True,
            takes_at_once=True,
        )
        with contextlib.suppress(_Made):
            self.heartbeat(request)
        packed: list[bytes] = self._packer.pack_command(*self._command)
        return packed

    def _call(self, name: str, *args: str | bytes | int | float) -> list[Any]:
        prefixes = (self.keys.prefix, self.keys.queue_prefix)
        self._command = ("EVALSHA", scripts.sha(name), 2, *prefixes, self._times, *args)
        raise _Made


class _Made(Exception):
    """The call is made, and not sent."""


def _beat(
    beats: Sequence[tuple[redis.Connection, list[list[bytes]]]], turn: int, seconds: float
) -> None:
    """One heartbeat of each node, evenly spread over that time."""
    began = time.perf_counter()
    for number, (connection, calls) in enumerate(beats):
        time.sleep(max(0.0, began + seconds * number / len(beats) - time.perf_counter()))
        connection.send_packed_command(calls[turn])
        connection.read_response()
    time.sleep(max(0.0, began + seconds - time.perf_counter()))


def _used(client: redis.Redis) -> float:
    """Seconds of a processor that the server has used."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def _allow_connections(number: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number + 1000, most), most))


if __name__ == "__main__":
    main()
