"""No lost wake-up: steps of publishers and nodes interleave in any order, and each may die.

After each step, invariant 7 holds. At the end, each message has run exactly once, or it was lost
with a dead node, and its loss is recorded.
"""

from __future__ import annotations

import pytest

from ..support.interleaving import interleave
from ..support.server import Server


def test_no_wakeup_is_lost_in_some_hundred_interleavings(server: Server) -> None:
    interleave(server, range(100))


@pytest.mark.soak
def test_no_wakeup_is_lost_in_ten_thousand_interleavings(server: Server) -> None:
    interleave(server, range(10_000, 20_000))
