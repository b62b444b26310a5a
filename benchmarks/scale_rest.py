"""Scale: the cost of an idle fleet in Redis.

Each node has its own connection. The answer to a heartbeat sets the time of the next heartbeat. The
share of a core covers the whole server, so it includes the parsing of the commands.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Sequence

import redis

from benchmarks.scale_fleet import (
    FULL,
    INSTANCE,
    TEMPLATE,
    Fleet,
    Row,
    Sizes,
    names,
    running_first,
    used_cpu,
)
from celery_minsched import HeartbeatRequest

FLEETS = (1000, 3000, 10_000)  # nodes
SECONDS = 8.0  # minimum length of a measurement
LOADS = (3, 12)  # percent, in turns. Both are in the lowest level of the load
DEFAULTS = {"node_ttl": 8.0, "lease": 30.0}
Beats = Sequence[tuple[redis.Connection, list[list[bytes]]]]


def at_rest(sizes: Sizes) -> Iterator[Row]:
    """Idle nodes send heartbeats."""
    for nodes in FLEETS if sizes is FULL else (sizes.nodes,):
        _allow_connections(nodes)
        with Fleet("--maxclients", str(nodes + 100), **DEFAULTS) as fleet, running_first():
            fleet.add_nodes(names("n", nodes))
            interval = fleet.beat("n0").interval
            beats = _prepare(fleet, nodes)
            _beat(beats, 0, 0.0)  # opens the connections
            cpu_before = used_cpu(fleet.client)
            with fleet.measured() as run:
                for turn in range(max(2, round(SECONDS / interval)) if sizes is FULL else 1):
                    _beat(beats, turn % 2, interval)
            share = 100 * (used_cpu(fleet.client) - cpu_before) / run.seconds
            for connection, _ in beats:
                connection.disconnect()
        yield run.row(
            "a fleet at rest",
            f"{nodes:,} nodes",
            f"{share:.1f} % of a core, a heartbeat every {interval:g} s",
        )


def _prepare(fleet: Fleet, nodes: int) -> Beats:
    """The connection of each node, and the bytes of its heartbeats."""
    packer = redis.Connection()
    commands = [_command(fleet, load) for load in LOADS]
    return [
        (
            redis.Connection(port=fleet.server.port),
            [
                packer.pack_command(*(node_id if part == TEMPLATE else part for part in command))
                for command in commands
            ],
        )
        for node_id in names("n", nodes)
    ]


def _command(fleet: Fleet, load: int) -> Sequence[object]:
    """The heartbeat of an idle node."""
    request = HeartbeatRequest(
        node_id=TEMPLATE,
        instance=INSTANCE,
        load_json=json.dumps({"cpu": load, "mem": 40.5}),
        jobs=[],
        rescues=True,
        takes_at_once=True,
    )
    return fleet.recorded("heartbeat", lambda service: service.heartbeat(request))


def _beat(beats: Beats, turn: int, seconds: float) -> None:
    """Send a heartbeat of each node, evenly spread over some seconds."""
    began = time.perf_counter()
    for number, (connection, calls) in enumerate(beats):
        time.sleep(max(0.0, began + seconds * number / len(beats) - time.perf_counter()))
        connection.send_packed_command(calls[turn])
        connection.read_response()
    time.sleep(max(0.0, began + seconds - time.perf_counter()))


def _allow_connections(number: int) -> None:
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(number + 1000, hard_limit), hard_limit))


CASES = (at_rest,)
