"""Fills Redis as programs of the original specification do."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field

import redis

from .server import Server, milliseconds

PAIRS = [(src, tgt) for src in ("zh", "en", "de", "ja") for tgt in ("zh", "en") if src != tgt]
STATUSES = ("finished", "failed", "finished", "finished")


@dataclass
class OldLayout:
    """The nodes, sessions and jobs that ``fill`` wrote."""

    nodes: dict[str, int] = field(default_factory=dict)  # slots
    pools: dict[str, set[str]] = field(default_factory=dict)  # members
    pairs: dict[str, list[str]] = field(default_factory=dict)
    sessions: dict[str, dict[str, str]] = field(default_factory=dict)
    jobs: dict[str, dict[str, str]] = field(default_factory=dict)
    in_flight: dict[str, set[str]] = field(default_factory=dict)  # by node
    unknown: dict[str, object] = field(default_factory=dict)


def fill(client: redis.Redis, nodes: int, sessions: int, jobs: int, seed: int = 7) -> OldLayout:
    """Write nodes in pools of ten, and jobs. The counters are wrong, and some jobs are active."""
    old, rand = OldLayout(), random.Random(seed)
    now = milliseconds(client)
    with client.pipeline(transaction=False) as pipe:
        for n in range(nodes):
            node_id, pool = f"node-{n}", str(n // 10 + 1)
            old.nodes[node_id] = rand.randint(2, 8)
            old.pools.setdefault(pool, set()).add(node_id)
            old.in_flight[node_id] = set()
            info = {
                "online": "true",
                "cap_json": json.dumps({"asr": True, "tts": n % 2 == 0, "models": ["large"]}),
                "max_jobs": old.nodes[node_id],
                "last_heartbeat_ts": now // 1000 - 120 if n % 2 else now - 120_000,
                "load_json": json.dumps({"cpu": 12.5, "gpu": 80, "mem": 40}),
            }
            pipe.hset(f"scheduler:node:info:{node_id}", mapping=info)
            pipe.hset(f"scheduler:node:runtime:{node_id}", "current_jobs", rand.randint(-1, 9))
        for pool, members in old.pools.items():
            pipe.sadd(f"scheduler:pool:{pool}:members", *members)
        for n, (src, tgt) in enumerate(PAIRS):
            pools = sorted(rand.sample(sorted(old.pools), min(2, len(old.pools))))
            old.pairs[f"{src}:{tgt}"] = pools
            if n % 2:
                pipe.sadd(f"scheduler:lang:{src}:{tgt}", *pools)
            else:
                pipe.hset(f"scheduler:lang:{src}:{tgt}", mapping=dict.fromkeys(pools, 1))
        for n in range(sessions):
            record = {"preferred_pool": str(n % len(old.pools) + 1), "last_lang_pair": "zh:en"}
            old.sessions[f"user-{n}"] = record
            pipe.hset(f"scheduler:session:user-{n}", mapping=record)
        pipe.execute()
        for number in range(1, jobs + 1):
            _job(old, pipe, rand, number, now)
            if number % 1000 == 0:
                pipe.execute()
        pipe.set("scheduler:job:id_seq", jobs)
        pipe.execute()
    _put_unknown(client, old)
    return old


def _job(
    old: OldLayout, pipe: redis.client.Pipeline, rand: random.Random, n: int, now: int
) -> None:
    session = f"user-{rand.randrange(max(len(old.sessions), 1))}"
    job_id, node_id = f"{session}:{n}", rand.choice(list(old.nodes))
    src, tgt = rand.choice(PAIRS)
    active_jobs = old.in_flight[node_id]
    is_active = n % 40 == 0 and len(active_jobs) < old.nodes[node_id]
    record = {
        "node_id": node_id,
        "session_id": session,
        "src_lang": src,
        "tgt_lang": tgt,
        "payload_json": json.dumps({"utterance": n}),
        "status": "dispatched" if is_active else rand.choice(STATUSES),
        "created_ts": str(now - 60_000),
    }
    if is_active:
        active_jobs.add(job_id)
    old.jobs[job_id] = record
    pipe.hset(f"scheduler:job:{job_id}", mapping=record)


def _put_unknown(client: redis.Redis, old: OldLayout) -> None:
    """Write keys of other programs. Some have the prefix, and some have similar names."""
    client.set("scheduler:leader", "host-1")
    client.rpush("scheduler:audit", "a", "b")
    client.hset("scheduler:node:gpu:node-1", "temperature", 71)
    client.set("scheduler:session:as-a-string", "x")
    client.hset("scheduler:lang:zh", "en", "1")
    client.set("application:cache", "y")
    client.rpush("celery", "no message")
    for name in (
        *("scheduler:leader", "scheduler:audit", "scheduler:node:gpu:node-1"),
        *("scheduler:session:as-a-string", "scheduler:lang:zh"),
        *("application:cache", "celery"),
    ):
        old.unknown[name] = content(client, name)


def content(client: redis.Redis, key: str) -> object:
    """The content of a key, and its TTL."""
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda name: client.lrange(name, 0, -1),
    }
    return read[client.type(key)](key), client.ttl(key)


def assert_untouched(client: redis.Redis, old: OldLayout) -> None:
    """The keys of other programs are unchanged."""
    for name, before in old.unknown.items():
        assert (name, content(client, name)) == (name, before)


#: The original specification scans the members of a pool and increments a counter.
_DISPATCH = """
local best, least
for _, id in ipairs(redis.call('SMEMBERS', 'scheduler:pool:' .. ARGV[1] .. ':members')) do
  local max_jobs = tonumber(redis.call('HGET', 'scheduler:node:info:' .. id, 'max_jobs'))
  local taken = tonumber(redis.call('HGET', 'scheduler:node:runtime:' .. id, 'current_jobs') or 0)
  if taken < max_jobs and (not least or taken / max_jobs < least) then
    best, least = id, taken / max_jobs
  end
end
if not best then return {} end
redis.call('HINCRBY', 'scheduler:node:runtime:' .. best, 'current_jobs', 1)
local job_id = ARGV[2] .. ':' .. redis.call('INCR', 'scheduler:job:id_seq')
redis.call('HSET', 'scheduler:job:' .. job_id, 'node_id', best, 'session_id', ARGV[2],
  'src_lang', 'zh', 'tgt_lang', 'en', 'payload_json', '{}', 'status', 'dispatched',
  'created_ts', redis.call('TIME')[1])
redis.call('HSET', 'scheduler:session:' .. ARGV[2], 'preferred_pool', ARGV[1],
  'last_lang_pair', 'zh:en')
return {best, job_id}
"""
_COMPLETE = """
redis.call('HSET', 'scheduler:job:' .. ARGV[2], 'status', 'finished')
return redis.call('HINCRBY', 'scheduler:node:runtime:' .. ARGV[1], 'current_jobs', -1)
"""


def leave_in_flight(client: redis.Redis, pool: str, session_id: str) -> None:
    """Dispatch a job and never complete it."""
    assert client.eval(_DISPATCH, 0, pool, session_id)


class OldProgram(threading.Thread):
    """A program of the original specification. It dispatches jobs and completes them."""

    def __init__(self, server: Server, pool: str, session_id: str) -> None:
        super().__init__(daemon=True)
        self._server, self._pool, self._session_id = server, pool, session_id
        self._stopping = threading.Event()
        self.completed: list[str] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with self._server.client() as client:
                while not self._stopping.is_set():
                    self._run_a_job(client)
        except Exception as exc:  # raised by stop()
            self.error = exc

    def _run_a_job(self, client: redis.Redis) -> None:
        if job := client.eval(_DISPATCH, 0, self._pool, self._session_id):
            client.eval(_COMPLETE, 0, *job)
            self.completed.append(job[1])

    def stop(self) -> None:
        """End the thread after its current job. Raises the error of the thread, if it had one."""
        self._stopping.set()
        self.join(10)
        if self.error:
            raise self.error
