"""Finds the pools that serve a pool selector, and the demands that a registered node can meet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import accumulate

from ..core.reading import Reader
from ..core.selector import parse_selector

#: A pool selector, and the capabilities.
Demand = tuple[str, tuple[str, ...]]

#: The most members that one call reads of the sets of nodes with a capability, smallest sets first.
MOST_MEMBERS = 40_000


def pools_of(reader: Reader, pool_selector: str) -> set[str]:
    """The pools that serve the selector, as ``pools_of`` in lua/include/demand.lua."""
    return pools_of_all(reader, [pool_selector])[pool_selector]


def pools_of_all(reader: Reader, pool_selectors: Iterable[str]) -> dict[str, set[str]]:
    """The pools that serve each of the selectors."""
    selectors = {text: parse_selector(text) for text in pool_selectors}
    pairs = {pair for selector in selectors.values() for pair in selector.pairs}
    pair_keys = {reader.keys("lang", pair): pair for pair in pairs}
    serving = {pair_keys[key]: pools for key, pools in reader.members_of(pair_keys).items()}
    named = {selector.pool for selector in selectors.values() if selector.pool and selector.pairs}
    answers = reader.ask(("EXISTS", reader.keys("pool_langs", pool)) for pool in named)
    listing = {pool for pool, lists_pairs in zip(named, answers, strict=True) if lists_pairs}
    return {
        text: serving_pools(text, serving.__getitem__, listing.__contains__) for text in selectors
    }


def serving_pools(
    pool_selector: str,
    pools_of_pair: Callable[[str], Collection[str]],
    lists_pairs: Callable[[str], bool],
) -> set[str]:
    """The pools that serve the selector.

    ``pools_of_pair`` returns the pools of a language pair. ``lists_pairs`` returns whether a pool
    lists language pairs. A pool that lists none serves all.
    """
    pool, pairs = parse_selector(pool_selector)
    by_pair = [set(pools_of_pair(pair)) for pair in pairs]
    if not pool:
        return next((pools for pools in by_pair if pools), set())
    if not pairs or not lists_pairs(pool):
        return {pool}
    return {pool} if any(pool in pools for pools in by_pair) else set()


def is_possible(reader: Reader, pool_selector: str, capabilities: Iterable[str]) -> bool:
    """Can a registered node meet the demand? As ``is_possible`` in lua/include/demand.lua."""
    demand = (pool_selector, tuple(capabilities))
    return bool(possible_demands(reader, [demand], most_members=None))


def possible_demands(
    reader: Reader, demands: Iterable[Demand], most_members: int | None = MOST_MEMBERS
) -> set[Demand]:
    """The demands that a registered node can meet.

    A demand for several capabilities is compared with the nodes that have them. If these are more
    than ``most_members`` in all, a demand that is not compared counts as possible.
    """
    demands = set(demands)
    pools = pools_of_all(reader, (selector for selector, _ in demands))
    required_sets = {
        demand: [_required_sets(reader, pool, demand[1]) for pool in pools[demand[0]]]
        for demand in demands
    }
    keys = list({key for by_pool in required_sets.values() for sets in by_pool for key in sets})
    sizes = dict(zip(keys, reader.ask(("SCARD", key) for key in keys), strict=True))
    candidates = {
        demand: [sets for sets in by_pool if all(sizes[key] for key in sets)]
        for demand, by_pool in required_sets.items()
    }
    compared = {
        key for by_pool in candidates.values() for sets in by_pool if len(sets) > 1 for key in sets
    }
    smallest = _smallest({key: sizes[key] for key in compared}, most_members)
    members = {key: set(names) for key, names in reader.members_of(smallest).items()}
    return {
        demand
        for demand, by_pool in candidates.items()
        if any(_have_common_member(sets, members) for sets in by_pool)
    }


def _required_sets(reader: Reader, pool: str, capabilities: Iterable[str]) -> list[str]:
    """The sets that must all contain a node that can meet the demand."""
    keys = {reader.keys("capable_members", pool, name) for name in capabilities}
    return list(keys) or [reader.keys("pool_members", pool)]


def _smallest(sizes: dict[str, int], most: int | None) -> list[str]:
    """The keys of the smallest sets that have at most ``most`` members in all."""
    in_order = sorted(sizes, key=lambda key: (sizes[key], key))
    total = accumulate(sizes[key] for key in in_order)
    return [key for key, size in zip(in_order, total, strict=True) if most is None or size <= most]


def _have_common_member(sets: list[str], members: dict[str, set[str]]) -> bool:
    """Is a node in all the sets? None is empty. A set that was not read counts as a yes."""
    if len(sets) == 1 or any(key not in members for key in sets):
        return True
    first, *others = sorted((members[key] for key in sets), key=len)
    return bool(first.intersection(*others))
