"""Calls of the scheduler that write every kind of key."""

from __future__ import annotations

import redis

from .desk import Desk

#: Keys without a TTL, and the reason.
LASTING = {
    r"scheduler:layout": "the number of the layout",
    r"scheduler:times": "the fleet's times, for later nodes",
    r"scheduler:nodes": "the registered nodes; a silent node leaves after history_ttl",
    r"scheduler:node:(info|runtime|jobs):n1": "of a registered node",
    r"scheduler:pools": "the pools with nodes",
    r"scheduler:pool:asr:.*": "of a pool with nodes",
    r"scheduler:lang:zh:en(:in:asr)?": "of a pair that a node serves",
    r"scheduler:job:id_seq": "a counter: no id is used twice",
    r"scheduler:turn": "a counter of choices, for the node that was chosen longest ago",
    r"scheduler:events": "events; a stream of bounded length",
    r"scheduler:counts": "counters, a bounded number",
}


def use_every_key(desk: Desk) -> None:
    """Every event of jobs, nodes, sessions and lines."""
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
        client.delete(keys("node_queue", node_id))  # as a worker reads its queue
    desk.service.set_language_pools("fr", "de", ["asr"])
    desk.service.set_language_pools("fr", "de", [])


def scheduler_keys(client: redis.Redis) -> list[str]:
    return [key for key in client.scan_iter() if key.startswith(("scheduler:", "minsched."))]
