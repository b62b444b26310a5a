"""Fixtures of the tests of check and repair."""

from __future__ import annotations

import pytest
import redis

from ..support.world import World


@pytest.fixture
def world(client: redis.Redis) -> World:
    world = World(client)
    assert world.check() == []
    return world
