"""A revocation does not block the worker."""

from __future__ import annotations

import time

import redis

from node_agent.revokes import RevokedResults

from ..support.fleet import make_app, wait_for
from ..support.server import Server


def test_a_revocation_does_not_wait_for_the_result_backend(
    server: Server, client: redis.Redis
) -> None:
    app = make_app(server.url)
    ended, begun = app.AsyncResult("done"), app.AsyncResult("begun")
    app.backend.store_result("done", 1, "SUCCESS")
    app.backend.store_result("begun", None, "STARTED")
    client.client_pause(500)
    started = time.monotonic()
    results = RevokedResults(app)
    for page in (["done", "begun"], [f"t{number}" for number in range(50)]):
        results.put(page)
    assert time.monotonic() - started < 0.4
    wait_for(lambda: app.AsyncResult("t49").state == "REVOKED")
    assert (ended.state, begun.state) == ("SUCCESS", "STARTED")
    app.close()
