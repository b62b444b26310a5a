"""A line: while somebody stands in it, it is known and found by the slots that can serve it, and no
slot that could serve it stays free (invariant 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..monitor.line_queries import parse_line
from ..monitor.possible import parse_where
from .breach import Breach
from .look import Command, Key, Look, Node

#: Lines of one demand that are counted: more are not read in one step.
_COUNTED = 2000

INDEXES = ("pool_waiting", "capable_waiting", "node_waiting")


def check_lines(look: Look) -> Iterator[Breach]:
    """Each line; after :func:`~celery_minsched.consistency.nodes.check_nodes`."""
    names = {key.ids[0] for key in look.met.get("waiting", {}).values()}
    names.update(line for _, line in look.members("lines", "lang_waiting", "pool_langs_waiting"))
    look.load(*INDEXES, "waiting_counts")
    readable, suspects, passed_over = [], [], []
    for name in sorted(names):
        if name.count("/") != 2:
            yield Breach(
                code="line_unreadable",
                sentence=f"{name!r} is no line such as asr/gpu/n1",
                keys=(look.keys("lines"), look.keys("waiting", name)),
                remedy="Another program put it there. HDEL it from the first key, DEL the second.",
            )
            continue
        readable.append(name)
        line = _Line(look, name)
        if line.is_suspect():
            suspects.append(line)
        if line.has_free_nodes():
            passed_over.append(line)
    for line, (record, first, *links) in look.read((line, line.questions()) for line in suspects):
        yield from line.judge(record, bool(first), links)
    for line in passed_over:
        yield from line.free_slots()
    yield from _misfiled(look)
    yield from _miscounted(look, readable)


def _misfiled(look: Look) -> Iterator[Breach]:
    """Lines in an index that they do not name, or not at the place of their first job."""
    filed: Iterator[tuple[tuple[Key, str], list[Command]]] = (
        (
            (key, line),
            [("HGET", look.keys("lines"), line), ("ZSCORE", key.key, line), _first(look, line)],
        )
        for key, line in look.members(*INDEXES)
    )
    suspects = (
        (place, questions)
        for place, questions in filed
        if not _is_filed(*place, *map(look.recall, questions))
    )
    for (key, line), answers in look.read(suspects):
        if not _is_filed(key, line, *answers):
            index = "" if key.name == "node_waiting" else f"{_index_of(key)}\n"
            yield Breach(
                code="line_stray",
                sentence=f"line {line} is not filed in this index, or not at this place",
                keys=(key.key,),
                subject=("line", line, index),
            )


def _is_filed(key: Key, line: str, record: str | None, score: float | None, first: Any) -> bool:
    """Does the line name the index, and stand there at its first job's place? Or is it gone?

    The first job for a language pair has another place in each pool.
    """
    if key.name == "node_waiting":
        is_named = line.endswith(f"/{key.ids[0]}")
    else:
        is_named = _index_of(key) in (record or "").splitlines()
    if score is None or not is_named or not first:
        return score is None
    pool, pairs = parse_where(parse_line(line)[0])
    is_for_pair = bool(pairs) and not pool
    return is_for_pair or float(first[0][1]) == float(score)


def _index_of(key: Key) -> str:
    return "\t".join(key.in_offers)


def _first(look: Look, line: str) -> Command:
    return ("ZRANGE", look.keys("waiting", line), 0, 0, "WITHSCORES")


def _miscounted(look: Look, lines: Iterable[str]) -> Iterator[Breach]:
    """Demands for which another number of jobs is noted than wait in their lines."""
    lines, counts = set(lines), look.keys("waiting_counts")
    by_demand: dict[str, list[str]] = {demand: [] for _, demand in look.members("waiting_counts")}
    _sort_lines(by_demand, lines)

    def questions(demand: str) -> list[Command]:
        sizes = (("ZCARD", look.keys("waiting", name)) for name in by_demand[demand])
        return [("HGET", counts, demand), *sizes]

    suspects = [
        demand for demand in by_demand if not _is_counted(*map(look.recall, questions(demand)))
    ]
    if suspects:  # jobs may wait in new lines
        known = Key("lines", (), look.keys("lines"))
        _sort_lines(by_demand, {line for _, line, _ in look.items_of([known])} - lines)
    for demand, (noted, *numbers) in look.read(
        (demand, questions(demand)) for demand in suspects if len(by_demand[demand]) <= _COUNTED
    ):
        if not _is_counted(noted, *numbers):
            yield Breach(
                code="waiting_miscounted",
                sentence=f"{sum(numbers)} jobs wait for {demand}, and {noted or 0} are noted",
                keys=(counts, demand),
                subject=("count", demand, *by_demand[demand]),
            )


def _sort_lines(by_demand: dict[str, list[str]], lines: Iterable[str]) -> None:
    for line in sorted(lines):
        by_demand.setdefault(line.partition("/")[0], []).append(line)


def _is_counted(noted: str | None, *numbers: int) -> bool:
    return (noted or "0") == str(sum(numbers)) and noted != "0"


class _Line:
    """One line, and the keys in which it must be found."""

    def __init__(self, look: Look, name: str) -> None:
        self.look, self.name = look, name
        self.where, self.caps, self.required = parse_line(name)
        self.pools = sorted(look.pools_of(self.where))
        keys = look.keys
        pool, pairs = parse_where(self.where)
        self.at_pairs = [keys("lang_waiting", pair) for pair in pairs]
        walks = {f"pair {pair}" for pair in pairs} | {f"pool {pool}", f"node {self.required}"}
        self.is_relinked_soon = not walks.isdisjoint(look.relinking)
        if "=" in self.where:
            self.at_pairs.append(keys("pool_langs_waiting", pool))

    def is_suspect(self) -> bool:
        """Does it not fit, by what was read once and not in one step?"""
        record, first, *links = map(self.look.recall, self.questions())
        return any(self.judge(record, bool(first), links))

    def questions(self) -> list[Command]:
        """What :meth:`judge` takes the answers of."""
        keys = self.look.keys
        return [
            ("HGET", keys("lines"), self.name),
            _first(self.look, self.name),
            ("ZSCORE", keys("node_waiting", self.required), self.name),
            *(
                ("ZSCORE", keys(*self._index(pool, cap)), self.name)
                for pool in self.pools
                for cap in self.caps or [""]
            ),
            *(("SISMEMBER", key, self.name) for key in self.at_pairs),
        ]

    def judge(
        self, record: str | None, waiting: bool, links: list[float | int | None]
    ) -> Iterator[Breach]:
        """Is it known, and filed where slots find it, exactly while jobs wait in it?"""
        keys = self.look.keys
        at_node, *links = links
        width = len(self.caps or [""])
        in_pools = links[: len(self.pools) * width]
        at_pairs = links[len(in_pools) :]
        if not waiting:
            if record is not None or any(at_pairs):
                yield self._breach(
                    "line_without_jobs",
                    "has no job in it, and is not gone",
                    [keys("lines"), keys("waiting", self.name), *self.at_pairs],
                )
            return
        if record is None:
            yield self._breach("line_unlisted", "has jobs, and is not known", [keys("lines")])
        missing = [k for k, found in zip(self.at_pairs, at_pairs, strict=True) if not found]
        if at_node is None:  # else the one node that it is for finds it
            for number, pool in enumerate(self.pools):
                scores = in_pools[number * width : (number + 1) * width]
                if all(score is None for score in scores):
                    missing.append(keys(*self._index(pool, (self.caps or [""])[0])))
        if missing and not self.is_relinked_soon:
            yield self._breach(
                "line_unlinked",
                "has jobs, and freed slots do not find it",
                [*missing, keys("node_waiting", self.required)] if self.required else missing,
            )

    @staticmethod
    def _index(pool: str, capability: str) -> tuple[str, ...]:
        return ("capable_waiting", pool, capability) if capability else ("pool_waiting", pool)

    def has_free_nodes(self) -> bool:
        """Do jobs wait in it while a node that may serve it has a free slot?"""
        has_jobs = self.look.sizes[self.look.keys("waiting", self.name)] > 0
        return has_jobs and not self.is_relinked_soon and any(map(self._is_for, self._free_nodes()))

    def free_slots(self) -> Iterator[Breach]:
        """Nodes that could serve it and do not."""
        look = self.look
        suspects = [node for node in self._free_nodes() if self._is_for(node)]
        keys = look.keys
        for node, (waiting, taken, now, required) in look.read(
            (
                node,
                [
                    ("ZCARD", keys("waiting", self.name)),
                    ("ZCARD", keys("node_jobs", node.node_id)),
                    Node.command(keys, node.node_id),
                    Node.command(keys, self.required),
                ],
            )
            for node in suspects
        ):
            look.nodes[node.node_id] = Node.of(node.node_id, now)
            if self.required:
                look.nodes[self.required] = Node.of(self.required, required)
            still = look.nodes[node.node_id]
            if waiting and still and taken < still.max_jobs and self._is_for(still):
                yield Breach(
                    code="free_while_waiting",
                    sentence=f"node {node.node_id} has a free slot while {self.name} waits, which "
                    "it can serve",
                    keys=(keys("node_jobs", node.node_id), keys("waiting", self.name)),
                    subject=("node", node.node_id),
                )

    def _free_nodes(self) -> list[Node]:
        """The free nodes to look at: the required node, or all nodes with the rarest capability."""
        if self.required and not self._is_open():
            required = self.look.nodes.get(self.required)
            return [required] if required and self.required in self.look.free else []
        free = self.look.free_nodes
        by_pool = (
            min((free[pool, cap] for cap in self.caps or [""]), key=len) for pool in self.pools
        )
        return list({node.node_id: node for nodes in by_pool for node in nodes}.values())

    def _is_for(self, node: Node) -> bool:
        """Can the node serve the line? One for a single node is anyone's while that is away."""
        if self.required not in ("", node.node_id) and not self._is_open():
            return False
        pools = [pool for pool in self.pools if pool not in self.look.paused]
        return self.look.takes_jobs(node) and node.has(pools, self.caps)

    def _is_open(self) -> bool:
        """Can the one node that it is for not do it, or is it away? Not yet, while it is silent."""
        required = self.look.nodes.get(self.required)
        if required is None or required.draining or self.required in self.look.dead:
            return True
        if not required.has(self.pools, self.caps):
            return True
        return not required.online and self.look.is_heard(required)

    def _breach(self, code: str, what: str, keys: list[str]) -> Breach:
        return Breach(
            code=code,
            sentence=f"line {self.name} {what}",
            keys=tuple(keys),
            subject=("line", self.name),
        )
