"""Nothing is left behind: every key has a TTL or belongs to something that is still there."""

from __future__ import annotations

import re

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NoAvailableNode, Settings
from celery_minsched.core.keys import Keys, spell_keys

from ..support.desk import Desk, silence
from ..support.fleet import wait_for

#: Keys without a TTL, and why.
LASTING = {
    r"scheduler:layout": "the number of the layout",
    r"scheduler:times": "the fleet's times, which the next node gets",
    r"scheduler:nodes": "the nodes that are registered; one that is silent for history_ttl leaves",
    r"scheduler:node:(info|runtime|jobs):n1": "of a node that is registered",
    r"scheduler:pools": "the pools that have nodes",
    r"scheduler:pool:asr:.*": "of a pool that has nodes",
    r"scheduler:lang:zh:en(:in:asr)?": "of a pair that a node serves",
    r"scheduler:job:id_seq": "a counter: an id is never used twice",
    r"scheduler:turn": "a counter: who was chosen longest ago",
    r"scheduler:events": "what happened; a stream of bounded length",
    r"scheduler:counts": "counters, a bounded number",
}


def lives(desk: Desk) -> None:
    """Everything that can happen to jobs, nodes, sessions and lines."""
    pair = [{"id": "asr", "langs": [["zh", "en"]]}]
    desk.node("n1", 2, pair, caps=["gpu"])
    desk.node("n2", 2, [*pair, "mt"], caps=["gpu", "big"])
    client, keys = desk.service.redis, desk.service.keys
    speech = {"pool": None, "src_lang": "zh", "tgt_lang": "en", "capabilities": ["gpu"]}
    jobs = [desk.dispatch(session_id=f"u{n}", task_id=f"t{n}", **speech) for n in range(4)]
    waiting = [desk.park(f"m{n}", session_id="u9", task_id=f"w{n}", **speech) for n in range(4)]
    desk.park("mine", session_id="u0", affinity="require", expires_ts=5)
    desk.park("more", capabilities=["gpu", "big"], task_id="revoked")
    desk.send("delayed", due_ts=10**15, task_id="delayed")
    desk.service.revoke_tasks(["revoked"], "n1")
    desk.service.revoke_tasks(["delayed"], "n1")
    for job, status in zip(jobs, ("finished", "failed", "finished", "finished"), strict=True):
        desk.beat(job.node_id, jobs=[job.job_id])
        desk.complete(job, status)
    for job_id in waiting:
        job = desk.views.job(job_id)
        assert job is not None
        for node_id in ("n1", "n2"):
            if job_id in client.zrange(keys("node_jobs", node_id), 0, -1):
                desk.service.claim_job(job_id, node_id)
                desk.service.release_job(job_id)
                desk.complete(jobs[0].model_copy(update={"job_id": job_id, "node_id": node_id}))
    desk.beat("n1")
    for node_id in ("n1", "n2"):
        client.delete(keys("node_queue", node_id))  # as their workers would empty it
    desk.service.set_language_pools("fr", "de", ["asr"])
    desk.service.set_language_pools("fr", "de", [])


def lasting(client: redis.Redis) -> set[str]:
    return {key for key in client.keys("*") if client.ttl(key) == -1}


def test_every_key_has_a_ttl_or_a_reason(desk: Desk, client: redis.Redis) -> None:
    lives(desk)
    patterns = [pattern.replace("n1", "n[12]").replace("asr", "(asr|mt)") for pattern in LASTING]
    left = {key for key in lasting(client) if not any(re.fullmatch(p, key) for p in patterns)}
    assert left == set()


def test_a_node_that_is_gone_for_good_leaves_nothing(client: redis.Redis) -> None:
    times = {"history_ttl": 0.5, "session_ttl": 0.2}  # shorter than the settings allow
    settings = Settings().model_copy(update=times)
    desk = Desk(MinimalSchedulerService(client, settings))
    lives(desk)
    silence(desk, "n2", 60_000)
    client.hset(desk.service.keys("heard"), mapping={"since": 1})
    desk.beat("n1", jobs=[])  # n2 is found silent
    wait_for(lambda: desk.beat("n1") and not client.keys("*n2*"), "n2 to be forgotten")
    wait_for(lambda: not client.keys("scheduler:session:*"))
    wait_for(lambda: not [key for key in client.keys("scheduler:job:*") if "id_seq" not in key])
    assert not client.keys("*mt*")
    left = {key for key in lasting(client) if not any(re.fullmatch(p, key) for p in LASTING)}
    assert left == set()


def test_the_counters_of_a_pool_lapse_although_a_job_ends_after_its_last_node(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("n1")
    desk.node("idle", pools=["other"])
    job = desk.send(task_id="t")
    keys = desk.service.keys
    client.lmove(keys("node_queue", "n1"), keys("job_queue", job.job_id), "RIGHT", "LEFT")
    desk.beat("n1", online=False, jobs=[])  # the job waits for another node
    client.zadd(keys("nodes"), {"n1": -1})
    client.hset(keys("heard"), mapping={"since": 1})
    desk.beat("idle")
    assert not client.exists(keys("node_info", "n1"))
    client.delete(keys("pool_counts", "asr"))  # as after history_ttl
    assert desk.service.revoke_tasks(["t"], "idle")
    assert client.hget(keys("pool_counts", "asr"), "failed") == "1"
    assert client.pttl(keys("pool_counts", "asr")) > 0
    client.delete(keys("node_queue", "idle"))


def test_python_and_lua_spell_every_key_alike(client: redis.Redis) -> None:
    from celery_minsched.core.keys import QUEUES, STATE

    keys = Keys("minsched", queue_prefix="app1.")
    for name, template in {**STATE, **QUEUES}.items():
        parts = ["a", "b"][: template.count("{}")]
        arguments = ", ".join(f"'{part}'" for part in parts)
        script = spell_keys(f"return key.{name}({arguments})")
        said = client.eval(script, 2, keys.prefix, keys.queue_prefix)
        assert said == keys(name, *parts)


def test_a_key_in_a_key_and_whatever_makes_an_id_is_spelled_out() -> None:
    said = spell_keys("f(key.lang_speakers(g(a, (b)), h('x y'))) .. key.nodes() -- key.job")
    assert said == (
        "f((KEYS[1] .. 'lang:' .. (g(a, (b))) .. ':in:' .. (h('x y')))) .. (KEYS[1] .. 'nodes')"
        " -- key.job"
    )
    with pytest.raises(KeyError, match="no_such_key"):
        spell_keys("key.no_such_key(a)")
    with pytest.raises(ValueError, match="argument 2"):
        spell_keys("key.job()")


def test_priorities_are_filed_as_kombu_files_them() -> None:
    from kombu.transport.redis import Channel

    keys = Keys()
    channel = Channel.__new__(Channel)
    for priority in range(-1, 12):
        suffix = keys.suffixes[keys.band(priority)]
        message = {"properties": {"priority": priority}}
        filed = channel._q_for_pri("q", channel._get_message_priority(message, reverse=False))
        assert filed == f"q{suffix}"


def test_refusal_leaves_no_key(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    before = set(client.keys("*"))
    for _ in range(3):
        try:
            desk.dispatch(session_id="nobody", task_id="t")
        except NoAvailableNode:
            continue
    assert set(client.keys("*")) == before
