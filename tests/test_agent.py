"""The node agent as a whole: real processes."""

from __future__ import annotations

import pytest

from .fleet import Fleet


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_goes_to_a_node_and_sees_where_it_is(fleet: Fleet, pool: str) -> None:
    fleet.start_ready("n1", "-P", pool)
    result = fleet.app.send_task("tests.app.where_am_i", minsched={"pool": "asr"})
    seen = result.get(timeout=20)
    assert seen["minsched"]["node_id"] == "n1"
    assert seen["hostname"] == "celery@n1"
    fleet.wait_idle()
    job = fleet.job(result.id)
    assert job is not None
    assert (job.status, job.node_id, job.pool) == ("finished", "n1", "asr")
