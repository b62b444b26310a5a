"""Reads pools, and counts the jobs that wait for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from ..core.reading import Reader
from ..core.selector import parse_selector
from .lines import waiting_counts
from .models import NodeView, PoolView
from .possible import pools_of_all

#: The most selectors without a pool that has nodes for which a read asks Redis for their pools.
MOST_SELECTORS = 1000


def pools(reader: Reader, nodes: Iterable[NodeView], waiting: Mapping[str, int]) -> list[PoolView]:
    """All pools that have nodes or waiting jobs, by name.

    ``nodes`` are all nodes. ``waiting`` are the :func:`~.lines.waiting_counts`.
    """
    by_pool: dict[str, list[NodeView]] = defaultdict(list)
    for node in nodes:
        for pool in node.pools:
            by_pool[pool].append(node)
    langs = _pool_langs(reader, reader.members("pools"))
    waiting = waiting_by_pool(reader, waiting, langs)
    langs |= _pool_langs(reader, waiting.keys() - langs.keys())
    paused = paused_pools(reader)
    return [
        make_pool(pool, by_pool[pool], waiting[pool], pool in paused, langs[pool])
        for pool in sorted(langs)
    ]


def pool_names(reader: Reader) -> list[str]:
    """All pools that have nodes or waiting jobs, by name."""
    langs = _pool_langs(reader, reader.members("pools"))
    return sorted(langs.keys() | waiting_by_pool(reader, waiting_counts(reader), langs).keys())


def paused_pools(reader: Reader) -> set[str]:
    """The pools that an operator has paused."""
    return set(reader.members("paused"))


def waiting_by_pool(
    reader: Reader, waiting: Mapping[str, int], langs: Mapping[str, Iterable[str]]
) -> Counter[str]:
    """The number of jobs in line for each pool. A job that several pools can serve counts in each.

    ``waiting`` are the counts by pool selector. ``langs`` has the language pairs of the pools that
    have nodes.
    """
    serving: dict[str, set[str]] = defaultdict(set)
    for pool, pairs in langs.items():
        for pair in pairs:
            serving[pair].add(pool)
    by_pool: Counter[str] = Counter()
    unserved: dict[str, int] = {}
    for text, number in waiting.items():
        pool, selected = parse_selector(text)
        if pool in langs and selected:
            is_served = not langs[pool] or any(pool in serving[pair] for pair in selected)
            by_pool[pool] += number if is_served else 0
        elif pool and not selected:
            by_pool[pool] += number
        elif not pool and selected[0] in serving:
            by_pool.update(dict.fromkeys(serving[selected[0]], number))
        else:
            unserved[text] = number
    most = sorted(unserved, key=lambda text: -unserved[text])[:MOST_SELECTORS]
    for text, names in pools_of_all(reader, most).items():
        by_pool.update(dict.fromkeys(names, unserved[text]))
    return by_pool


def make_pool(
    name: str, nodes: list[NodeView], waiting: int, paused: bool, langs: list[str]
) -> PoolView:
    """The pool with these nodes."""
    working = [node for node in nodes if node.takes_jobs]
    return PoolView(
        pool=name,
        paused=paused,
        nodes=len(nodes),
        online=sum(node.online for node in nodes),
        slots=sum(node.max_jobs for node in working),
        taken=sum(node.current_jobs for node in working),
        leaving=sum(node.current_jobs for node in nodes if not node.takes_jobs),
        waiting=waiting,
        langs=langs,
    )


def _pool_langs(reader: Reader, names: Iterable[str]) -> dict[str, list[str]]:
    """The language pairs that each of the pools lists."""
    keys = {pool: reader.keys("pool_langs", pool) for pool in names}
    members = reader.members_of(keys.values())
    return {pool: sorted(members[key]) for pool, key in keys.items()}
