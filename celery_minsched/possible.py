"""Which demands a registered node could meet, of many demands in few round trips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .reading import PAGE, Reader, texts

#: What a job asks for: "where" it may run, and the capabilities.
Demand = tuple[str, tuple[str, ...]]

#: Pages of nodes in which a look searches for a node that has several capabilities.
MOST_PAGES = 10


@dataclass
class _Walk:
    """A search in the smallest set for a node that is in all the other sets, too."""

    demand: Demand
    smallest: str
    others: list[str]
    cursor: int = 0
    is_over: bool = False


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
        named = [where for where in wheres if "=" in where]
        lists_any = dict(
            zip(
                named,
                self._ask(("EXISTS", self._keys("pool_langs", parse_where(w)[0])) for w in named),
                strict=True,
            )
        )
        found: dict[str, set[str]] = {}
        for where in wheres:
            pool, pairs_of_where = parse_where(where)
            by_pair = [set(serving[pair]) for pair in pairs_of_where]
            if not pool:
                found[where] = next((pools for pools in by_pair if pools), set())
            elif where not in lists_any or not lists_any[where]:
                found[where] = {pool}
            else:
                found[where] = {pool} if any(pool in pools for pools in by_pair) else set()
        return found

    def is_possible(self, where: str, capabilities: Iterable[str]) -> bool:
        """Could a registered node do it? As ``is_possible`` in lua/include/demand.lua."""
        return bool(self.possible([(where, tuple(capabilities))], most_pages=None))

    def possible(
        self, demands: Iterable[Demand], most_pages: int | None = MOST_PAGES
    ) -> set[Demand]:
        """Those of the demands that a registered node could meet.

        Of several capabilities that a pool has, the nodes with the rarest are searched. A demand
        for which ``most_pages`` pages of them show no node counts as possible.
        """
        demands = set(demands)
        pools = self.pools_of_all(where for where, _ in demands)
        sets = {
            demand: [self._sets(pool, demand[1]) for pool in sorted(pools[demand[0]])]
            for demand in demands
        }
        keys = list({key for found in sets.values() for needed in found for key in needed})
        sizes = dict(zip(keys, self._ask(("SCARD", key) for key in keys), strict=True))
        found: set[Demand] = set()
        walks: list[_Walk] = []
        for demand, alternatives in sets.items():
            for needed in alternatives:
                if not all(sizes[key] for key in needed):
                    continue
                smallest, *others = sorted(needed, key=lambda key: (sizes[key], key))
                if not others:
                    found.add(demand)
                walks.append(_Walk(demand, smallest, others))
        return self._walk(walks, found, most_pages)

    def _sets(self, pool: str, capabilities: Iterable[str]) -> list[str]:
        """The sets of which a node that could do it is a member."""
        found = {self._keys("capable_members", pool, capability) for capability in capabilities}
        return list(found) or [self._keys("pool_members", pool)]

    def _walk(self, walks: list[_Walk], found: set[Demand], most_pages: int | None) -> set[Demand]:
        """``found`` and the demands for which a walk finds a node. All walks go on together."""
        page = 0
        while walks := [w for w in walks if not w.is_over and w.demand not in found]:
            if page == most_pages:
                return found | {walk.demand for walk in walks}
            page += 1
            answers = self._ask(("SSCAN", w.smallest, w.cursor, "COUNT", PAGE) for w in walks)
            members = []
            for walk, (cursor, answer) in zip(walks, answers, strict=True):
                walk.cursor, walk.is_over = int(cursor), not int(cursor)
                members.append(texts(answer))
            asked = [
                (walk, key, names)
                for walk, names in zip(walks, members, strict=True)
                for key in walk.others
                if names
            ]
            hits: dict[int, list[list[int]]] = {}
            for (walk, _, _), are_in in zip(
                asked,
                self._ask(("SMISMEMBER", key, *names) for _, key, names in asked),
                strict=True,
            ):
                hits.setdefault(id(walk), []).append(are_in)
            found |= {
                walk.demand
                for walk in walks
                if any(map(all, zip(*hits.get(id(walk), []), strict=True)))
            }
        return found


def parse_where(where: str) -> tuple[str, list[str]]:
    """The pool that it names, "" for none, and its language pairs."""
    pool, equals, pairs = where.partition("=")
    if not equals:
        pool, pairs = ("", where) if ":" in where else (where, "")
    return pool, [pair for pair in pairs.split("|") if pair]
