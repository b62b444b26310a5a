"""A state of Redis with nodes and jobs in each state."""

from __future__ import annotations

import json
from typing import Any

import redis

from celery_minsched import DispatchRequest, MinimalSchedulerService
from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.repair import repair
from celery_minsched.consistency.violation import Violation
from celery_minsched.core.models import DispatchResponse

from .desk import Desk, silence

LATER = 10**15


class World:
    """A full node, an idle node and a dead node, and jobs in each state."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.service = MinimalSchedulerService(client)
        self.keys = self.service.keys
        self.desk = Desk(self.service)
        self.checker = Checker(self.desk.views)
        asr = [{"id": "asr", "langs": [["zh", "en"]]}]
        self.desk.node("dead", 1, ["old"])
        self.die("dead")
        self.desk.node("full", 2, asr, caps=["gpu"])
        self.desk.node("idle", 2, ["mt", "tts"], caps=["big"])
        self.ended = self.desk.dispatch(task_id="ended")
        self.desk.complete(self.ended)
        self.running = self.desk.dispatch(task_id="running").job_id
        self.service.claim_job(self.running, "full")
        self.dispatched = self.desk.dispatch(task_id="dispatched").job_id
        self.waiting = self.send(task_id="waiting", session_id="u1")
        self.speech = self.send(task_id="s", pool=None, src_lang="zh", tgt_lang="en")
        self.delayed = self.send(task_id="delayed", due_ts=LATER)
        self.revoked = self.send(task_id="revoked", pool="tts", capabilities=["none"])
        self.service.revoke_tasks(["revoked"], "idle")
        self.client.delete(self.keys("node_queue", "idle"))
        self.client.lpush(self.keys("job_queue", self.revoked), message(self.revoked))  # put back
        self.service.place_jobs([self.revoked], handed_back_by="idle")
        unsent = self.desk.dispatch(task_id="lost", pool="mt")
        self.lost = unsent.job_id
        self.service.release_job(self.lost)
        self.service.set_language_pools("fr", "de", ["asr"])

    def die(self, node_id: str) -> None:
        """The node sends no heartbeats, and a script finds that it is dead."""
        silence(self.desk, node_id, 60_000)
        seconds, _ = self.client.time()
        self.client.hset(self.keys("heard"), mapping={"since": 1, "last": seconds * 1000})
        self.desk.node("other", 1, ["other"])
        self.desk.beat("other")

    def send(self, **demand: Any) -> str:
        """Send a job that does not run yet, with a message as the router makes it."""
        head, tail = message("HERE", **demand).split('"HERE"')
        request = DispatchRequest(**({"pool": "asr", "when_full": "wait"} | demand))
        [job] = self.service.dispatch_tasks([(request, (head, tail))])
        assert isinstance(job, DispatchResponse)
        return job.job_id

    def check(self) -> list[Violation]:
        return self.checker.check(pause=0)

    def repair(self) -> list[Violation]:
        return repair(self.service, self.checker, self.check(), pause=0)

    def everything(self) -> dict[str, Any]:
        """All keys with their contents, without the counter of choices, events and counters."""
        passing = {self.keys(name) for name in ("turn", "events", "counts")}
        passing |= set(self.client.scan_iter(self.keys("pool_counts", "*")))
        keys = sorted(set(self.client.scan_iter()) - passing)
        reads = {
            "hash": self.client.hgetall,
            "string": self.client.get,
            "set": self.client.smembers,
            "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
            "list": lambda key: self.client.lrange(key, 0, -1),
        }
        return {key: reads[self.client.type(key)](key) for key in keys}


def message(job_id: str, task_id: str = "", **demand: Any) -> str:
    demand = {"pool": "asr", **{key: value for key, value in demand.items() if key != "due_ts"}}
    header = {"demand": {k: v for k, v in demand.items() if v}, "job_id": job_id}
    headers = {"id": task_id, "task": "t", "eta": None, "expires": None, "minsched": header}
    return json.dumps({"body": "gASV", "headers": headers, "properties": {"priority": 0}})
