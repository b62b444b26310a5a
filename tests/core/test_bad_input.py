"""Bad input of each kind: the error names the value and the cure, and Redis is unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    HeartbeatRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
)

from ..support.contents import contents

GOOD_NODE = {"node_id": "n1", "max_jobs": 2, "pools_json": '["asr"]'}


def everything(client: redis.Redis) -> dict[bytes, object]:
    """All keys of the server with their values."""
    return contents(redis.Redis(port=client.connection_pool.connection_kwargs["port"]))


def node(**wrong: Any) -> Callable[[MinimalSchedulerService], object]:
    return lambda service: service.register_node(RegisterNodeRequest(**(GOOD_NODE | wrong)))


def beat(**wrong: Any) -> Callable[[MinimalSchedulerService], object]:
    return lambda service: service.heartbeat(HeartbeatRequest(**({"node_id": "n1"} | wrong)))


def dispatch(**wrong: Any) -> Callable[[MinimalSchedulerService], object]:
    return lambda service: service.dispatch_task(DispatchRequest(**wrong))


def complete(**wrong: Any) -> Callable[[MinimalSchedulerService], object]:
    good = {"job_id": ":1", "node_id": "n1", "status": "finished"}
    return lambda service: service.complete_task(CompleteTaskRequest(**(good | wrong)))


LONG = "x" * 129
CASES: list[tuple[str, Callable[[MinimalSchedulerService], object], str]] = [
    ("no slots", node(max_jobs=0), "greater than or equal to 1"),
    ("too many slots", node(max_jobs=10**6), "less than or equal to"),
    ("an empty id", node(node_id=""), "is not a name"),
    ("a long id", node(node_id=LONG), "has 129 characters; at most 128 fit"),
    ("a colon in an id", node(node_id="a:b"), "'a:b' is not a name: it must match"),
    ("a line break in an id", node(node_id="a\nb"), "is not a name"),
    ("pools that are no JSON", node(pools_json='["asr"'), "is not JSON"),
    ("no pools", node(pools_json="[]"), 'not a list of pools such as ["asr"]'),
    ("pools that are not a list", node(pools_json='{"asr": 1}'), "not a list of pools"),
    ("a pool twice", node(pools_json='["asr", "asr"]'), "names a pool twice"),
    ("a pool without an id", node(pools_json='[{"langs": []}]'), "id"),
    ("a pool with a wrong key", node(pools_json='[{"id": "a", "lang": []}]'), "lang"),
    ("half a pair", node(pools_json='[{"id": "a", "langs": [["zh"]]}]'), "langs"),
    ("a pool of a wrong kind", node(pools_json="[1.5]"), "1.5"),
    ("capabilities that are no JSON", node(cap_json="gpu"), "'gpu' is not JSON"),
    ("a capability with a comma", node(cap_json='["a,b"]'), "'a,b' is not a name"),
    ("capabilities of a wrong kind", node(cap_json="[1]"), "neither a list of names nor an object"),
    (
        "too many indexes",
        node(cap_json=json.dumps([f"c{n}" for n in range(300)])),
        "at most 256 fit. Offer fewer",
    ),
    ("a field that does not exist", node(slots=2), "slots"),
    ("huge JSON", node(cap_json=json.dumps(["x" * 70000])), "characters of JSON; at most"),
    ("a load that is not JSON", beat(load_json="50"), "is not a JSON object"),
    ("a load that is not a number", beat(load_json='{"cpu": "high"}'), "'high' is not a load"),
    ("a load below zero", beat(load_json='{"gpu": -1}'), "-1 is not a load"),
    ("a load that is not finite", beat(load_json='{"mem": NaN}'), "nan is not a load"),
    ("no demand", dispatch(), "give a pool, or src_lang and tgt_lang"),
    ("half a demand", dispatch(src_lang="zh"), "come together"),
    ("a pair for no auto", dispatch(src_lang="zh", tgt_lang="en:fr"), "needs 'auto' as src_lang"),
    ("a language with a slash", dispatch(src_lang="z/h", tgt_lang="en"), "is not a language"),
    ("a pool with a slash", dispatch(pool="a/b"), "is not a name"),
    ("a payload that is not JSON", dispatch(pool="asr", payload_json="{"), "is not JSON"),
    ("a session with a space", dispatch(pool="asr", session_id="a b"), "space or an unprintable"),
    ("a long session", dispatch(pool="asr", session_id=LONG), "at most 128 fit"),
    (
        "many capabilities",
        dispatch(pool="asr", capabilities=[f"c{n}" for n in range(9)]),
        "at most",
    ),
    (
        "a due time before 1970",
        dispatch(pool="asr", due_ts=-1),
        "-1 is not a time: give milliseconds",
    ),
    (
        "a due time in ns",
        dispatch(pool="asr", due_ts=2 * 10**18),
        "2000000000000000000 is not a time",
    ),
    ("an expiry in ns", dispatch(pool="asr", expires_ts=10**400), "since the epoch, 0 to 90071992"),
    ("a wrong affinity", dispatch(pool="asr", affinity="sticky"), "'prefer', 'require' or 'none'"),
    ("a status of our own", complete(status="lost"), "'finished' or 'failed'"),
    ("an empty job id", complete(job_id=""), "is not a job id"),
]


@pytest.mark.parametrize(("call", "says"), [pytest.param(c, s, id=n) for n, c, s in CASES])
def test_the_error_names_the_value_and_redis_is_unchanged(
    service: MinimalSchedulerService,
    client: redis.Redis,
    call: Callable[[MinimalSchedulerService], object],
    says: str,
) -> None:
    service.register_node(RegisterNodeRequest(**GOOD_NODE))
    service.dispatch_task(DispatchRequest(pool="asr"))
    before = everything(client)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        call(service)
    assert says in str(caught.value)
    assert everything(client) == before
