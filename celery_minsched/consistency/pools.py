"""Rules about pools, their nodes and language pairs, and the keys of pools without nodes."""

from __future__ import annotations

from collections.abc import Iterator

from .records import Index
from .state_scan import StateScan
from .violation import Violation


def check_pools(scan: StateScan) -> Iterator[Violation]:
    """Check each pool."""
    yield from _without_nodes(scan)
    yield from _language_pairs(scan)
    yield from _left_behind(scan)


def _without_nodes(scan: StateScan) -> Iterator[Violation]:
    """Pools in the list of pools that have no node."""
    keys = scan.keys
    for pool, [has_nodes] in scan.read(
        (pool, [("EXISTS", keys("pool_members", pool))]) for _, pool in scan.members("pools")
    ):
        if not has_nodes:
            yield Violation(
                code="pool_without_nodes",
                sentence=f"pool {pool} is in the list of pools but has no node",
                keys=(keys("pools"), keys("pool_members", pool)),
                subject=("node", "", f"{pool}\t\n"),
            )


def _language_pairs(scan: StateScan) -> Iterator[Violation]:
    """Language pairs whose indexes contradict the nodes and programs that record them."""
    keys = scan.keys
    for (pair, pool), answers in scan.read(
        (
            (pair, pool),
            [
                ("EXISTS", keys("lang_speakers", pair, pool)),
                ("SISMEMBER", keys("lang", pair), pool),
                ("SISMEMBER", keys("pool_langs", pool), pair),
            ],
        )
        for pair, pool in _pairs(scan)
    ):
        is_served, *indexes = map(bool, answers)
        if indexes != [is_served, is_served]:
            maps = "a node or a program maps" if is_served else "no node and no program maps"
            yield Violation(
                code="pair_index",
                sentence=f"{maps} {pair} to pool {pool}, but the indexes do not agree",
                keys=(
                    keys("lang_speakers", pair, pool),
                    keys("lang", pair),
                    keys("pool_langs", pool),
                ),
                subject=("node", "*" if is_served else "", "", f"{pool}\t{pair}\n"),
            )


def _pairs(scan: StateScan) -> list[Index]:
    """The language pairs and pools that any key names together."""
    pairs = {(key.ids[0], key.ids[1]) for key in scan.keys_of_kind("lang_speakers")}
    for key, member in scan.members("lang", "pool_langs"):
        pairs.add((key.ids[0], member) if key.name == "lang" else (member, key.ids[0]))
    return sorted(pairs)


def _left_behind(scan: StateScan) -> Iterator[Violation]:
    """Counters and pauses of pools that have no node."""
    keys = scan.keys
    counted = {key.ids[0] for key in scan.keys_of_kind("pool_counts")}
    for pool, (has_nodes, ttl, is_paused) in scan.read(
        (
            pool,
            [
                ("SISMEMBER", keys("pools"), pool),
                ("PTTL", keys("pool_counts", pool)),
                ("SISMEMBER", keys("paused"), pool),
            ],
        )
        for pool in sorted(counted | scan.paused)
    ):
        if has_nodes:
            continue
        if ttl == -1:
            yield Violation(
                code="counts_stay",
                sentence=f"pool {pool} has no node, but its counters have no TTL",
                keys=(keys("pool_counts", pool), keys("pools")),
                subject=("node", "", f"{pool}\t\n"),
            )
        if is_paused:
            yield Violation(
                code="pause_stays",
                sentence=f"pool {pool} has no node, but it is still paused",
                keys=(keys("paused"),),
                subject=("member", keys("paused"), pool),
            )
