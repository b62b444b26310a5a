"""Changes in Redis that violate an invariant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from .world import LATER, World, message

Break = Callable[[redis.Redis, World], Any]
#: A change, the code of its violation, and a key that the violation names.
BREAKS: dict[str, tuple[Break, str, str]] = {
    "a slot count": (
        lambda r, w: r.hset("scheduler:node:runtime:full", "current_jobs", 7),
        "slot_count",
        "scheduler:node:runtime:full",
    ),
    "a full node is in a free set": (
        lambda r, w: r.zadd("scheduler:pool:asr:free", {"full": 1}),
        "free_index",
        "scheduler:pool:asr:free",
    ),
    "an idle node is not in its free set": (
        lambda r, w: r.zrem("scheduler:pool:mt:free", "idle"),
        "free_index",
        "scheduler:pool:mt:free",
    ),
    "an idle node is not in the free set of its capability": (
        lambda r, w: r.zrem("scheduler:pool:mt:free:big", "idle"),
        "free_index",
        "scheduler:pool:mt:free:big",
    ),
    "a member is missing": (
        lambda r, w: r.srem("scheduler:pool:asr:members", "full"),
        "member_missing",
        "scheduler:pool:asr:members",
    ),
    "a member of a capability is missing": (
        lambda r, w: r.srem("scheduler:pool:asr:members:gpu", "full"),
        "member_missing",
        "scheduler:pool:asr:members:gpu",
    ),
    "a member that does not advertise the index": (
        lambda r, w: r.sadd("scheduler:pool:mt:members", "full"),
        "stale_member",
        "scheduler:pool:mt:members",
    ),
    "a member that is not a node": (
        lambda r, w: r.sadd("scheduler:pool:mt:members:big", "ghost"),
        "stale_member",
        "scheduler:pool:mt:members:big",
    ),
    "an unknown node in a free set": (
        lambda r, w: r.zadd("scheduler:pool:mt:free", {"ghost": 0}),
        "stale_member",
        "scheduler:pool:mt:free",
    ),
    "a node is not listed": (
        lambda r, w: r.zrem("scheduler:nodes", "full"),
        "node_unlisted",
        "scheduler:nodes",
    ),
    "an unknown node in the list of nodes": (
        lambda r, w: r.zadd("scheduler:nodes", {"ghost": 5}),
        "node_without_record",
        "scheduler:node:info:ghost",
    ),
    "a slot count of an unknown node": (
        lambda r, w: r.hset("scheduler:node:runtime:ghost", "current_jobs", 1),
        "node_without_record",
        "scheduler:node:runtime:ghost",
    ),
    "a node's record is gone": (
        lambda r, w: r.delete("scheduler:node:info:idle"),
        "node_without_record",
        "scheduler:node:info:idle",
    ),
    "a pool is not listed": (
        lambda r, w: r.srem("scheduler:pools", "mt"),
        "pool_unlisted",
        "scheduler:pools",
    ),
    "a pool without nodes": (
        lambda r, w: r.sadd("scheduler:pools", "ghosts"),
        "pool_without_nodes",
        "scheduler:pool:ghosts:members",
    ),
    "a speaker is missing": (
        lambda r, w: r.srem("scheduler:lang:zh:en:in:asr", "full"),
        "speaker_missing",
        "scheduler:lang:zh:en:in:asr",
    ),
    "a speaker that does not advertise the pair": (
        lambda r, w: r.sadd("scheduler:lang:zh:en:in:asr", "idle"),
        "stale_member",
        "scheduler:lang:zh:en:in:asr",
    ),
    "a pair is not served": (
        lambda r, w: r.srem("scheduler:lang:zh:en", "asr"),
        "pair_index",
        "scheduler:lang:zh:en",
    ),
    "a pair that a program maps is not served": (
        lambda r, w: r.srem("scheduler:lang:fr:de", "asr"),
        "pair_index",
        "scheduler:lang:fr:de",
    ),
    "a pool does not list its pair": (
        lambda r, w: r.srem("scheduler:pool:asr:langs", "zh:en"),
        "pair_index",
        "scheduler:pool:asr:langs",
    ),
    "a pair that no node serves": (
        lambda r, w: r.sadd("scheduler:lang:ga:cy", "asr"),
        "pair_index",
        "scheduler:lang:ga:cy",
    ),
    "jobs of an unknown node": (
        lambda r, w: (
            r.hset(f"scheduler:job:{w.running}", "node_id", "ghost"),
            r.zadd("scheduler:node:jobs:ghost", {w.running: LATER}),
        ),
        "left_behind",
        "scheduler:node:jobs:ghost",
    ),
    "messages at a dead node": (
        lambda r, w: r.lpush("minsched.node.dead", message("u:7")),
        "left_behind",
        "minsched.node.dead",
    ),
    "unacknowledged messages of an unknown node": (
        lambda r, w: r.hset("minsched.unacked.ghost", "tag", "[{}, 1, 2]"),
        "left_behind",
        "minsched.unacked.ghost",
    ),
    "acknowledged messages of an unknown node": (
        lambda r, w: r.sadd("minsched.acked.ghost", "tag"),
        "left_behind",
        "minsched.acked.ghost",
    ),
    "a job has lost its slot": (
        lambda r, w: r.zrem("scheduler:node:jobs:full", w.running),
        "job_without_slot",
        "scheduler:node:jobs:full",
    ),
    "a job has a slot of an unknown node": (
        lambda r, w: (
            r.hset(f"scheduler:job:{w.dispatched}", "node_id", "ghost"),
            r.zrem("scheduler:node:jobs:full", w.dispatched),
        ),
        "job_without_slot",
        "scheduler:node:jobs:ghost",
    ),
    "a slot of an ended job": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.ended.job_id: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "two slots for one job": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.running: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "a slot of a waiting job": (
        lambda r, w: r.zadd("scheduler:node:jobs:idle", {w.waiting: LATER}),
        "slot_without_job",
        "scheduler:node:jobs:idle",
    ),
    "a slot of a job without a record": (
        lambda r, w: r.delete(f"scheduler:job:{w.running}"),
        "slot_without_job",
        "scheduler:node:jobs:full",
    ),
    "a waiting job is in no line": (
        lambda r, w: r.delete("scheduler:waiting:asr//"),
        "job_without_place",
        "scheduler:waiting:asr//",
    ),
    "a delayed job is missing from the delayed jobs": (
        lambda r, w: r.zrem("scheduler:delayed", w.delayed),
        "job_without_place",
        "scheduler:delayed",
    ),
    "a revoked job that was put back has no expiry": (
        lambda r, w: r.zrem("scheduler:expiring", w.revoked),
        "job_without_place",
        "scheduler:expiring",
    ),
    "an entry in line of an unknown job": (
        lambda r, w: r.zadd("scheduler:waiting:asr//", {"000000000000999 u:999": 0}),
        "ticket_without_job",
        "scheduler:waiting:asr//",
    ),
    "an entry in line of a running job": (
        lambda r, w: r.zadd("scheduler:waiting:tts//", {f"000000000000002 {w.running}": 0}),
        "ticket_without_job",
        "scheduler:waiting:tts//",
    ),
    "a line with the wrong score in its index": (
        lambda r, w: r.zadd("scheduler:pool:asr:waiting", {"asr//": 10**15}),
        "line_stray",
        "scheduler:pool:asr:waiting",
    ),
    "a line in the index of another line": (
        lambda r, w: r.zadd("scheduler:pool:asr:waiting:gpu", {"asr//": 0}),
        "line_stray",
        "scheduler:pool:asr:waiting:gpu",
    ),
    "a wrong count of jobs in line": (
        lambda r, w: r.hincrby("scheduler:waiting_counts", "asr", 3),
        "waiting_miscounted",
        "scheduler:waiting_counts",
    ),
    "a count of jobs without a line": (
        lambda r, w: r.hset("scheduler:waiting_counts", "gone", 3),
        "waiting_miscounted",
        "scheduler:waiting_counts",
    ),
    "a delayed entry of an unknown job": (
        lambda r, w: r.zadd("scheduler:delayed", {"u:999": LATER}),
        "entry_without_job",
        "scheduler:delayed",
    ),
    "a running job is in the delayed jobs": (
        lambda r, w: r.zadd("scheduler:delayed", {w.running: 1}),
        "entry_without_job",
        "scheduler:delayed",
    ),
    "an expiry of an unknown job": (
        lambda r, w: r.zadd("scheduler:expiring", {"u:999": LATER}),
        "entry_without_job",
        "scheduler:expiring",
    ),
    "a waiting job's message is gone": (
        lambda r, w: r.delete(f"minsched.job.{w.waiting}"),
        "job_without_message",
        "minsched.job.u1",
    ),
    "a delayed job's message is gone": (
        lambda r, w: r.delete(f"minsched.job.{w.delayed}"),
        "job_without_message",
        "minsched.job.",
    ),
    "a waiting job's record is gone": (
        lambda r, w: r.delete(f"scheduler:job:{w.waiting}"),
        "message_without_job",
        "minsched.job.u1",
    ),
    "a message of an ended job": (
        lambda r, w: r.lpush(f"minsched.job.{w.ended.job_id}", message(w.ended.job_id)),
        "message_without_job",
        "minsched.job.",
    ),
    "a message of an abandoned job": (
        lambda r, w: r.lpush(f"minsched.job.{w.lost}", message(w.lost)),
        "message_without_job",
        "minsched.job.",
    ),
    "a record without the demand": (
        lambda r, w: r.hdel(f"scheduler:job:{w.waiting}", "where"),
        "job_without_demand",
        "minsched.job.u1",
    ),
    "the record of an ended job has no TTL": (
        lambda r, w: r.persist(f"scheduler:job:{w.ended.job_id}"),
        "record_stays",
        "scheduler:job:",
    ),
    "the record of a running job has no TTL": (
        lambda r, w: r.persist(f"scheduler:job:{w.running}"),
        "record_stays",
        "scheduler:job:",
    ),
    "the record of a waiting job has a TTL": (
        lambda r, w: r.expire(f"scheduler:job:{w.waiting}", 1000),
        "record_lapses",
        "scheduler:job:u1",
    ),
    "a line without jobs": (
        lambda r, w: r.hset("scheduler:lines", "tts//", 0),
        "line_without_jobs",
        "scheduler:lines",
    ),
    "a line is not listed": (
        lambda r, w: r.hdel("scheduler:lines", "asr//"),
        "line_unlisted",
        "scheduler:lines",
    ),
    "a line is missing from the index of its pool": (
        lambda r, w: r.zrem("scheduler:pool:asr:waiting", "asr//"),
        "line_unlinked",
        "scheduler:pool:asr:waiting",
    ),
    "a line is missing from the index of its language pair": (
        lambda r, w: r.srem("scheduler:lang:zh:en:waiting", "zh:en//"),
        "line_unlinked",
        "scheduler:lang:zh:en:waiting",
    ),
    "a gone line is in the index of its language pair": (
        lambda r, w: r.sadd("scheduler:lang:ga:cy:waiting", "ga:cy//"),
        "line_without_jobs",
        "scheduler:lang:ga:cy:waiting",
    ),
    "a slot stays free while a job waits": (
        lambda r, w: r.hset("scheduler:node:info:full", "max_jobs", 3),
        "free_while_waiting",
        "scheduler:waiting:asr//",
    ),
    "a queue of an unknown node is bound": (
        lambda r, w: r.sadd("_kombu.binding.minsched.node.ghost", "x"),
        "stray_binding",
        "_kombu.binding.minsched.node.ghost",
    ),
    "a dead node's mailbox": (
        lambda r, w: r.sadd(
            "_kombu.binding.celery.pidbox", "\x06\x16\x06\x16celery@dead.celery.pidbox"
        ),
        "stray_mailbox",
        "_kombu.binding.celery.pidbox",
    ),
}
#: Changes that ``repair`` cannot mend, and the action of an operator that mends each.
BY_HAND: dict[str, tuple[Break, str, Break]] = {
    "a message of no job for an unknown node": (
        lambda r, w: r.lpush("minsched.node.ghost", "by hand"),
        "foreign_message",
        lambda r, w: r.rpop("minsched.node.ghost"),
    ),
    "an unassigned message without a demand": (
        lambda r, w: r.lpush("minsched.job.u:99", "by hand"),
        "message_without_job",
        lambda r, w: r.delete("minsched.job.u:99"),
    ),
    "a line with an unreadable name": (
        lambda r, w: r.hset("scheduler:lines", "by hand", 0),
        "line_unreadable",
        lambda r, w: r.hdel("scheduler:lines", "by hand"),
    ),
}
