"""Every key has a TTL or belongs to something that exists."""

from __future__ import annotations

import re

import pytest
import redis

from celery_minsched import MinimalSchedulerService, NoAvailableNode, Settings
from celery_minsched.core.keys import Keys
from celery_minsched.core.lua_source import spell_keys

from ..support.all_keys import LASTING, use_every_key
from ..support.desk import Desk, silence
from ..support.fleet import wait_for


def lasting(client: redis.Redis) -> set[str]:
    return {key for key in client.keys("*") if client.ttl(key) == -1}


def test_every_key_has_a_ttl_or_a_reason(desk: Desk, client: redis.Redis) -> None:
    use_every_key(desk)
    patterns = [pattern.replace("n1", "n[12]").replace("asr", "(asr|mt)") for pattern in LASTING]
    left = {key for key in lasting(client) if not any(re.fullmatch(p, key) for p in patterns)}
    assert left == set()


def test_a_forgotten_node_leaves_no_key(client: redis.Redis) -> None:
    times = {"history_ttl": 0.5, "session_ttl": 0.2}  # shorter than settings allow
    settings = Settings().model_copy(update=times)
    desk = Desk(MinimalSchedulerService(client, settings))
    use_every_key(desk)
    silence(desk, "n2", 60_000)
    client.hset(desk.service.keys("heard"), mapping={"since": 1})
    desk.beat("n1", jobs=[])  # marks n2 dead
    wait_for(lambda: desk.beat("n1") and not client.keys("*n2*"), "n2 to be forgotten")
    wait_for(lambda: not client.keys("scheduler:session:*"))
    wait_for(lambda: not [key for key in client.keys("scheduler:job:*") if "id_seq" not in key])
    assert not client.keys("*mt*")
    left = {key for key in lasting(client) if not any(re.fullmatch(p, key) for p in LASTING)}
    assert left == set()


def test_the_counters_of_a_pool_expire_although_a_job_ends_after_the_last_node_left(
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
        key_in_lua = client.eval(script, 2, keys.prefix, keys.queue_prefix)
        assert key_in_lua == keys(name, *parts)


def test_an_unknown_key_or_a_wrong_number_of_ids_is_refused() -> None:
    spelled = spell_keys("f(key.lang_speakers(pair, h.x)) .. key.nodes() -- key.job")
    assert spelled == (
        "f((KEYS[1] .. 'lang:' .. (pair) .. ':in:' .. (h.x))) .. (KEYS[1] .. 'nodes') -- key.job"
    )
    with pytest.raises(ValueError, match=r"unknown key: key.no_such_key\(a\)"):
        spell_keys("key.no_such_key(a)")
    with pytest.raises(ValueError, match=r"1 ids expected: key.job\(\)"):
        spell_keys("key.job()")
    for text in ("key.job(id_of(a))", "key.job(key.nodes())", "key.job", "key.job (a)"):
        with pytest.raises(ValueError, match=r"not a key with its ids: key\."):
            spell_keys(text)


def test_priorities_have_the_suffixes_of_kombu() -> None:
    from kombu.transport.redis import Channel

    keys = Keys()
    channel = Channel.__new__(Channel)
    for priority in range(-1, 12):
        suffix = keys.suffixes[keys.priority_step(priority)]
        message = {"properties": {"priority": priority}}
        filed = channel._q_for_pri("q", channel._get_message_priority(message, reverse=False))
        assert filed == f"q{suffix}"


def test_a_refused_dispatch_leaves_no_key(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1", 1)
    desk.dispatch()
    before = set(client.keys("*"))
    for _ in range(3):
        try:
            desk.dispatch(session_id="nobody", task_id="t")
        except NoAvailableNode:
            continue
    assert set(client.keys("*")) == before
