"""A line: while somebody stands in it, it is known and found by the slots that can serve it, and no
slot that could serve it stays free (invariant 7).
"""

from __future__ import annotations

from collections.abc import Iterator

from .breach import Breach
from .look import Command, Look, Node


def check_lines(look: Look) -> Iterator[Breach]:
    """Each line; after :func:`~celery_minsched.check.nodes.check_nodes`."""
    with_turns = {key.ids[0] for key in look.met.get("line_turns", {}).values()}
    names = with_turns | {key.ids[0] for key in look.met.get("waiting", {}).values()}
    names.update(line for _, line in look.members("lines", "lang_waiting", "pool_langs_waiting"))
    lines = []
    for name in sorted(names):
        if name.count("/") == 2:
            lines.append(_Line(look, name, name in with_turns))
        else:
            yield Breach(
                code="line_unreadable",
                sentence=f"{name!r} is no line such as asr/gpu/n1",
                keys=(look.keys("lines"), look.keys("waiting", name)),
                remedy="Somebody put it there by hand. HDEL it from the first key, DEL the second.",
            )
    for line, answers in look.read((line, line.questions()) for line in lines):
        is_known, waiting, *links = answers
        yield from line.judge(bool(is_known), waiting, links)
        if waiting:
            yield from line.free_slots()
    yield from _strays(look)


def _strays(look: Look) -> Iterator[Breach]:
    """Lines in a pool that does not serve them and has no node, which would strike them off."""
    for key, line in look.members("pool_waiting"):
        [pool] = key.ids
        has_nodes = any(node and pool in node.pools for node in look.nodes.values())
        if (
            not has_nodes
            and f"left {pool}" not in look.relinking
            and pool not in look.pools_of(line.split("/")[0])
        ):
            yield Breach(
                code="line_stray",
                sentence=f"line {line} stands in pool {pool}, which has no node and does not "
                "serve it",
                keys=(key.key,),
                subject=("node", "", f"{pool}\t\n"),
            )


class _Line:
    """One line, and the keys in which it must be found."""

    def __init__(self, look: Look, name: str, has_turns: bool) -> None:
        self.look, self.name, self.has_turns = look, name, has_turns
        where, caps, self.required = name.split("/")
        self.caps = [cap for cap in caps.split(",") if cap]
        self.pools = sorted(look.pools_of(where))
        keys = look.keys
        self.at_node = [keys("node_waiting", self.required)] if self.required else []
        self.in_pools = [keys("pool_waiting", pool) for pool in self.pools]
        pool, equals, listed = where.partition("=")
        pairs = (listed if equals else where).split("|") if ":" in where else []
        self.at_pairs = [keys("lang_waiting", pair) for pair in pairs]
        walks = {f"pair {pair}" for pair in pairs} | {f"pool {pool}"}
        self.is_relinked_soon = not walks.isdisjoint(look.relinking)
        if equals:
            self.at_pairs.append(keys("pool_langs_waiting", pool))

    def questions(self) -> list[Command]:
        """What :meth:`judge` takes the answers of."""
        return [
            ("HEXISTS", self.look.keys("lines"), self.name),
            ("ZCARD", self.look.keys("waiting", self.name)),
            *(("ZSCORE", key, self.name) for key in (*self.at_node, *self.in_pools)),
            *(("SISMEMBER", key, self.name) for key in self.at_pairs),
        ]

    def judge(
        self, is_known: bool, waiting: int, links: list[float | int | None]
    ) -> Iterator[Breach]:
        """Is it known, and linked, exactly while somebody stands in it?"""
        keys = self.look.keys
        at_node, links = links[: len(self.at_node)], links[len(self.at_node) :]
        in_pools, at_pairs = links[: len(self.in_pools)], links[len(self.in_pools) :]
        if not waiting:
            if is_known or self.has_turns or any(at_pairs):
                yield self._breach(
                    "line_without_jobs",
                    "has nobody in it, and is not gone",
                    [keys("lines"), keys("waiting", self.name), *self.at_pairs],
                )
            return
        if not is_known:
            yield self._breach(
                "line_unlisted", f"has {waiting} jobs, and is not known", [keys("lines")]
            )
        missing = [k for k, found in zip(self.at_pairs, at_pairs, strict=True) if not found]
        if None in (at_node or [None]):  # else the one node that it is for finds it
            missing += [
                k for k, score in zip(self.in_pools, in_pools, strict=True) if score is None
            ]
        if missing and not self.is_relinked_soon:
            yield self._breach(
                "line_unlinked",
                f"has {waiting} jobs, and freed slots do not find it",
                [*missing, *self.at_node],
            )

    def free_slots(self) -> Iterator[Breach]:
        """Nodes that could serve it and do not."""
        look = self.look
        if self.is_relinked_soon:
            return
        suspects = [
            node
            for node in look.nodes.values()
            if node and node.node_id in look.free and self._is_for(node)
        ]
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
