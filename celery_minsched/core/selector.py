"""A pool selector: the pools that may run a job.

``asr`` is a pool. ``zh:en`` is a language pair: the pools that serve it. ``zh:en|en:zh`` looks the
second pair up if no pool serves the first. ``asr=zh:en`` is the pool ``asr`` if it serves the pair.
The scripts read the same texts in lua/include/demand.lua.
"""

from __future__ import annotations

from typing import NamedTuple


class Selector(NamedTuple):
    """The parts of a pool selector."""

    pool: str  # "" for none
    pairs: tuple[str, ...]  # language pairs "src:tgt", in the order in which they are looked up

    def __str__(self) -> str:
        pairs = "|".join(self.pairs)
        return f"{self.pool}={pairs}" if self.pool and pairs else self.pool or pairs


def parse_selector(text: str) -> Selector:
    """The parts of a pool selector.

    The text may come from a damaged record, so any text is valid.
    """
    pool, equals, pairs = text.partition("=")
    if not equals:
        pool, pairs = ("", text) if ":" in text else (text, "")
    return Selector(pool, tuple(pair for pair in pairs.split("|") if pair))
