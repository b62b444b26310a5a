"""Rules about a line: while jobs wait in it, every slot that can serve it finds it, and no such
slot stays free (invariant 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..core.selector import parse_selector
from ..core.stored import Command
from ..monitor.lines import parse_line
from .records import Key, NodeRecord
from .state_scan import StateScan
from .violation import Violation

#: The most lines of one demand whose jobs are counted in one step.
_COUNTED = 2000

INDEXES = ("pool_waiting", "capable_waiting", "node_waiting")


def check_lines(scan: StateScan) -> Iterator[Violation]:
    """Check each line. Call it after :func:`.nodes.check_nodes`."""
    names = {key.ids[0] for key in scan.keys_of_kind("waiting")}
    names.update(line for _, line in scan.members("lines", "lang_waiting", "pool_langs_waiting"))
    scan.load(*INDEXES, "waiting_counts")
    readable, suspects, passed_over = [], [], []
    for name in sorted(names):
        if name.count("/") != 2:
            yield Violation(
                code="line_unreadable",
                sentence=f"{name!r} is not the name of a line such as asr/gpu/n1",
                keys=(scan.keys("lines"), scan.keys("waiting", name)),
                remedy="Another program wrote it. HDEL it from the first key, DEL the second.",
            )
            continue
        readable.append(name)
        line = _Line(scan, name)
        if line.is_suspect():
            suspects.append(line)
        if line.has_free_nodes():
            passed_over.append(line)
    for line, (record, first, *links) in scan.read((line, line.questions()) for line in suspects):
        yield from line.check(record, bool(first), links)
    for line in passed_over:
        yield from line.check_free_nodes()
    yield from _misfiled(scan)
    yield from _miscounted(scan, readable)


def _misfiled(scan: StateScan) -> Iterator[Violation]:
    """Lines in an index to which they do not belong, or with the wrong score."""
    entries: Iterator[tuple[tuple[Key, str], list[Command]]] = (
        (
            (key, line),
            [("HGET", scan.keys("lines"), line), ("ZSCORE", key.key, line), _first(scan, line)],
        )
        for key, line in scan.members(*INDEXES)
    )
    suspects = (
        (entry, questions)
        for entry, questions in entries
        if not _is_filed(*entry, *map(scan.recall, questions))
    )
    for (key, line), answers in scan.read(suspects):
        if not _is_filed(key, line, *answers):
            index = "" if key.name == "node_waiting" else f"{_index_line(key)}\n"
            yield Violation(
                code="line_stray",
                sentence=f"line {line} does not belong in this index, or has the wrong score",
                keys=(key.key,),
                subject=("line", line, index),
            )


def _is_filed(key: Key, line: str, record: str | None, score: float | None, first: Any) -> bool:
    """Is the entry of the line correct, or gone?

    The line's record names the index, and the entry has the score of the line's first job. The
    first job for a language pair has another score in each pool.
    """
    if key.name == "node_waiting":
        is_named = line.endswith(f"/{key.ids[0]}")
    else:
        is_named = _index_line(key) in (record or "").splitlines()
    if score is None or not is_named or not first:
        return score is None
    pool, pairs = parse_selector(parse_line(line).pool_selector)
    is_for_pair = bool(pairs) and not pool
    return is_for_pair or float(first[0][1]) == float(score)


def _index_line(key: Key) -> str:
    return "\t".join(key.as_index)


def _first(scan: StateScan, line: str) -> Command:
    return ("ZRANGE", scan.keys("waiting", line), 0, 0, "WITHSCORES")


def _miscounted(scan: StateScan, lines: Iterable[str]) -> Iterator[Violation]:
    """Demands whose counter is not the number of jobs in their lines."""
    lines, counts = set(lines), scan.keys("waiting_counts")
    by_demand: dict[str, list[str]] = {demand: [] for _, demand in scan.members("waiting_counts")}
    _sort_lines(by_demand, lines)

    def questions(demand: str) -> list[Command]:
        sizes = (("ZCARD", scan.keys("waiting", name)) for name in by_demand[demand])
        return [("HGET", counts, demand), *sizes]

    suspects = [
        demand for demand in by_demand if not _is_counted(*map(scan.recall, questions(demand)))
    ]
    if suspects:  # jobs may wait in new lines
        known = Key("lines", (), scan.keys("lines"))
        _sort_lines(by_demand, {line for _, line, _ in scan.items_of([known])} - lines)
    for demand, (counter, *numbers) in scan.read(
        (demand, questions(demand)) for demand in suspects if len(by_demand[demand]) <= _COUNTED
    ):
        if not _is_counted(counter, *numbers):
            yield Violation(
                code="waiting_miscounted",
                sentence=f"{sum(numbers)} jobs wait for {demand}, but their counter is "
                f"{counter or 0}",
                keys=(counts, demand),
                subject=("count", demand, *by_demand[demand]),
            )


def _sort_lines(by_demand: dict[str, list[str]], lines: Iterable[str]) -> None:
    for line in sorted(lines):
        by_demand.setdefault(line.partition("/")[0], []).append(line)


def _is_counted(counter: str | None, *numbers: int) -> bool:
    return (counter or "0") == str(sum(numbers)) and counter != "0"


class _Line:
    """One line, and the keys that must contain it."""

    def __init__(self, scan: StateScan, name: str) -> None:
        self.scan, self.name = scan, name
        self.pool_selector, self.capabilities, self.required = parse_line(name)
        self.pools = sorted(scan.pools_of(self.pool_selector))
        keys = scan.keys
        pool, pairs = parse_selector(self.pool_selector)
        self.pair_keys = [keys("lang_waiting", pair) for pair in pairs]
        walks = {f"pair {pair}" for pair in pairs} | {f"pool {pool}", f"node {self.required}"}
        self.is_relinked_soon = not walks.isdisjoint(scan.relinking)
        if pool and pairs:
            self.pair_keys.append(keys("pool_langs_waiting", pool))

    def is_suspect(self) -> bool:
        """Does the line look wrong in reads that are not atomic?"""
        record, first, *links = map(self.scan.recall, self.questions())
        return any(self.check(record, bool(first), links))

    def questions(self) -> list[Command]:
        """The commands whose answers :meth:`check` takes."""
        keys = self.scan.keys
        return [
            ("HGET", keys("lines"), self.name),
            _first(self.scan, self.name),
            ("ZSCORE", keys("node_waiting", self.required), self.name),
            *(
                ("ZSCORE", keys(*self._index(pool, capability)), self.name)
                for pool in self.pools
                for capability in self.capabilities or [""]
            ),
            *(("SISMEMBER", key, self.name) for key in self.pair_keys),
        ]

    def check(
        self, record: str | None, has_jobs: bool, links: list[float | int | None]
    ) -> Iterator[Violation]:
        """Does the line exist, and do slots find it, exactly while jobs wait in it?"""
        keys = self.scan.keys
        at_node, *links = links
        width = len(self.capabilities or [""])
        in_pools = links[: len(self.pools) * width]
        at_pairs = links[len(in_pools) :]
        if not has_jobs:
            if record is not None or any(at_pairs):
                yield self._violation(
                    "line_without_jobs",
                    "has no job but still exists",
                    [keys("lines"), keys("waiting", self.name), *self.pair_keys],
                )
            return
        if record is None:
            fault = "has jobs but is missing from the list of lines"
            yield self._violation("line_unlisted", fault, [keys("lines")])
        missing = [key for key, score in zip(self.pair_keys, at_pairs, strict=True) if not score]
        if at_node is None:  # else its required node finds it
            for number, pool in enumerate(self.pools):
                scores = in_pools[number * width : (number + 1) * width]
                if all(score is None for score in scores):
                    missing.append(keys(*self._index(pool, (self.capabilities or [""])[0])))
        if missing and not self.is_relinked_soon:
            yield self._violation(
                "line_unlinked",
                "has jobs, but a slot that becomes free does not find it",
                [*missing, keys("node_waiting", self.required)] if self.required else missing,
            )

    @staticmethod
    def _index(pool: str, capability: str) -> tuple[str, ...]:
        return ("capable_waiting", pool, capability) if capability else ("pool_waiting", pool)

    def has_free_nodes(self) -> bool:
        """Do jobs wait in the line while a node that can serve it has a free slot?"""
        has_jobs = self.scan.sizes[self.scan.keys("waiting", self.name)] > 0
        return has_jobs and not self.is_relinked_soon and any(map(self._fits, self._free_nodes()))

    def check_free_nodes(self) -> Iterator[Violation]:
        """Yield a violation for each node that can serve the line and has a free slot."""
        scan = self.scan
        suspects = [node for node in self._free_nodes() if self._fits(node)]
        keys = scan.keys
        for node, (waiting, taken, answer, required) in scan.read(
            (
                node,
                [
                    ("ZCARD", keys("waiting", self.name)),
                    ("ZCARD", keys("node_jobs", node.node_id)),
                    NodeRecord.command(keys, node.node_id),
                    NodeRecord.command(keys, self.required),
                ],
            )
            for node in suspects
        ):
            scan.nodes[node.node_id] = now = NodeRecord.of(node.node_id, answer)
            if self.required:
                scan.nodes[self.required] = NodeRecord.of(self.required, required)
            if waiting and now and taken < now.max_jobs and self._fits(now):
                yield Violation(
                    code="free_while_waiting",
                    sentence=f"node {node.node_id} has a free slot and can serve line "
                    f"{self.name}, but jobs wait in it",
                    keys=(keys("node_jobs", node.node_id), keys("waiting", self.name)),
                    subject=("node", node.node_id),
                )

    def _free_nodes(self) -> list[NodeRecord]:
        """The free nodes that may fit: the required node, or those with the rarest capability."""
        if self.required and not self._is_open():
            required = self.scan.nodes.get(self.required)
            return [required] if required and self.required in self.scan.free else []
        free = self.scan.free_nodes
        by_pool = (
            min((free[pool, capability] for capability in self.capabilities or [""]), key=len)
            for pool in self.pools
        )
        return list({node.node_id: node for nodes in by_pool for node in nodes}.values())

    def _fits(self, node: NodeRecord) -> bool:
        """Can the node serve the line now?"""
        if self.required not in ("", node.node_id) and not self._is_open():
            return False
        pools = [pool for pool in self.pools if pool not in self.scan.paused]
        return self.scan.takes_jobs(node) and node.can_run(pools, self.capabilities)

    def _is_open(self) -> bool:
        """May other nodes serve the line, because its required node is away or cannot serve it?

        A node that only misses heartbeats is not away yet.
        """
        required = self.scan.nodes.get(self.required)
        if required is None or required.draining or self.required in self.scan.dead:
            return True
        if not required.can_run(self.pools, self.capabilities):
            return True
        return not required.online and self.scan.has_heartbeats(required)

    def _violation(self, code: str, fault: str, keys: list[str]) -> Violation:
        return Violation(
            code=code,
            sentence=f"line {self.name} {fault}",
            keys=tuple(keys),
            subject=("line", self.name),
        )
