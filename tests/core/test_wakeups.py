"""No lost wake-up: publishers and nodes as steps that interleave in any order, and die at any.

Invariant 7 is looked at after every step, and at the end of each interleaving that every message
which was sent ran exactly once, or was in the hands of a node that died and is known to be lost.
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
