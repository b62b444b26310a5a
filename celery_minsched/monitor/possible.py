"""Which demands a registered node could meet, of many demands in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import accumulate

from ..core.reading import Reader

#: What a job asks for: "where" it may run, and the capabilities.
Demand = tuple[str, tuple[str, ...]]

#: Members that one look reads of the sets of nodes with a capability, the smallest sets first.
MOST_MEMBERS = 40_000


class PossibleViews(Reader):
    """Questions about pools, nodes and what jobs ask for."""

    def pools_of(self, where: str) -> set[str]:
        """The pools that serve; as ``pools_of`` in lua/include/demand.lua."""
        return self.pools_of_all([where])[where]

    def pools_of_all(self, wheres: Iterable[str]) -> dict[str, set[str]]:
        """The pools that serve each of these."""
        wheres = set(wheres)
        pairs = {pair for where in wheres for pair in parse_where(where)[1]}
        langs = {self._keys("lang", pair): pair for pair in pairs}
        serving = {langs[key]: pools for key, pools in self._scan_all(langs).items()}
        named = {parse_where(where)[0] for where in wheres if "=" in where}
        listed = self._ask(("EXISTS", self._keys("pool_langs", pool)) for pool in named)
        listing = {pool for pool, lists_pairs in zip(named, listed, strict=True) if lists_pairs}
        return {
            where: serving_pools(where, serving.__getitem__, lambda pool: pool in listing)
            for where in wheres
        }

    def is_possible(self, where: str, capabilities: Iterable[str]) -> bool:
        """Could a registered node do it? As ``is_possible`` in lua/include/demand.lua."""
        return bool(self.possible([(where, tuple(capabilities))], most_members=None))

    def possible(
        self, demands: Iterable[Demand], most_members: int | None = MOST_MEMBERS
    ) -> set[Demand]:
        """Those of the demands that a registered node could meet.

        A demand for several capabilities is compared with the nodes that have them. If those are
        more than ``most_members`` in all, a demand that is not compared counts as possible.
        """
        demands = set(demands)
        pools = self.pools_of_all(where for where, _ in demands)
        sets = {
            demand: [self._sets(pool, demand[1]) for pool in pools[demand[0]]] for demand in demands
        }
        keys = list({key for found in sets.values() for needed in found for key in needed})
        sizes = dict(zip(keys, self._ask(("SCARD", key) for key in keys), strict=True))
        candidates = {
            demand: [needed for needed in found if all(sizes[key] for key in needed)]
            for demand, found in sets.items()
        }
        compared = {
            key
            for found in candidates.values()
            for needed in found
            if len(needed) > 1
            for key in needed
        }
        read = self._scan_all(_smallest({key: sizes[key] for key in compared}, most_members))
        members = {key: set(names) for key, names in read.items()}
        return {
            demand
            for demand, found in candidates.items()
            if any(_is_met(needed, members) for needed in found)
        }

    def _sets(self, pool: str, capabilities: Iterable[str]) -> list[str]:
        """The sets of which a node that could do it is a member."""
        found = {self._keys("capable_members", pool, capability) for capability in capabilities}
        return list(found) or [self._keys("pool_members", pool)]


def _smallest(sizes: dict[str, int], most: int | None) -> list[str]:
    """The keys of the smallest sets, which have so many members in all."""
    in_order = sorted(sizes, key=lambda key: (sizes[key], key))
    total = accumulate(sizes[key] for key in in_order)
    return [key for key, size in zip(in_order, total, strict=True) if most is None or size <= most]


def _is_met(needed: list[str], members: dict[str, set[str]]) -> bool:
    """Is a node in all the sets, none of which is empty? Yes where one of them was not read."""
    if len(needed) == 1 or any(key not in members for key in needed):
        return True
    first, *others = sorted((members[key] for key in needed), key=len)
    return bool(first.intersection(*others))


def serving_pools(
    where: str,
    pools_of_pair: Callable[[str], Collection[str]],
    lists_pairs: Callable[[str], bool],
) -> set[str]:
    """The pools that serve, by the pools of each language pair and by which pools list pairs."""
    pool, pairs = parse_where(where)
    by_pair = [set(pools_of_pair(pair)) for pair in pairs]
    if not pool:
        return next((pools for pools in by_pair if pools), set())
    if "=" not in where or not lists_pairs(pool):
        return {pool}
    return {pool} if any(pool in pools for pools in by_pair) else set()


def parse_where(where: str) -> tuple[str, list[str]]:
    """The pool that it names, "" for none, and its language pairs."""
    pool, equals, pairs = where.partition("=")
    if not equals:
        pool, pairs = ("", where) if ":" in where else (where, "")
    return pool, [pair for pair in pairs.split("|") if pair]
