"""Publishers and nodes as steps that interleave in any order, and die at any step."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import redis

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    HeartbeatRequest,
    MinimalSchedulerService,
    RegisterNodeRequest,
    Settings,
)
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.queries import Views
from node_agent.requeue import park_queue

from .server import Server

Steps = Generator[None, None, None]
NODES = ("a", "b", "c", "last")
SPECS: list[dict[str, Any]] = [
    {"pool": "p"},
    {"pool": "q"},
    {"pool": "p", "capabilities": ["gpu"]},
    {"src_lang": "zh", "tgt_lang": "en"},
    {"pool": "p", "session_id": "s1"},
    {"pool": "p", "session_id": "s1", "affinity": "require"},
    {"pool": "q", "fairness_key": "x"},
    {"pool": "p", "priority": 9},
]


class Interleaving:
    """Publishers and nodes, and a random order of their steps."""

    def __init__(self, client: redis.Redis, seed: int) -> None:
        client.flushall()
        self.random = random.Random(seed)
        self.client = client
        self.service = MinimalSchedulerService(client, Settings(lease=60))
        self.keys = self.service.keys
        self.views = Views(client, self.keys)
        self.holds: dict[str, list[str]] = {}  # the jobs that a live node runs
        self.ran: Counter[str] = Counter()
        self.sent: set[str] = set()
        self.lost: set[str] = set()  # with the node that had read their messages
        # Heartbeats arrive all the time, so a silent node is dead.
        seconds, _ = client.time()
        client.hset(self.keys("heard"), mapping={"since": 1, "last": seconds * 1000})

    def publisher(self) -> Steps:
        """Sends one job. The publisher may die at any step."""
        spec = self.random.choice(SPECS)
        priority = spec.get("priority", 0)
        demand = {key: value for key, value in spec.items() if key != "priority"}
        headers = {"id": "", "minsched": {"job_id": "HERE", "demand": demand}}
        message = json.dumps({"headers": headers, "properties": {"priority": priority}})
        head, tail = message.split('"HERE"')
        yield
        request = DispatchRequest(
            **spec, when_full="wait", task_id=uuid.uuid4().hex, token=uuid.uuid4().hex
        )
        for _ in range(
            self.random.randint(1, 2)
        ):  # a reply may be lost: then the publisher repeats the call
            [place] = self.service.dispatch_tasks([(request, (head, tail))])
            assert isinstance(place, DispatchResponse)
            self.sent.add(place.job_id)
            yield

    def node(self, node_id: str) -> Steps:
        """Joins, works, changes, and leaves or dies."""
        holds = self.holds[node_id] = []
        self.join(node_id)
        yield
        for _ in range(self.random.randint(3, 25)):
            act = self.random.choice([self.take, self.take, self.finish, self.beat, self.join])
            if act == self.take:
                yield from self.take(node_id)
            else:
                act(node_id)
            yield
        if self.random.random() < 0.5:  # in good order
            self.service.heartbeat(HeartbeatRequest(node_id=node_id, online=False, jobs=None))
            yield
            yield from self.hand_back(node_id)
            while holds:
                self.finish(node_id)
                yield
            self.service.heartbeat(HeartbeatRequest(node_id=node_id, online=False, jobs=[]))
        else:  # like SIGKILL
            self.lost |= set(holds)
            self.die(node_id)
        del self.holds[node_id]

    def join(self, node_id: str) -> None:
        pools = self.random.choice([["p"], ["q"], ["p", {"id": "q", "langs": [["zh", "en"]]}]])
        self.service.register_node(
            RegisterNodeRequest(
                node_id=node_id,
                max_jobs=self.random.randint(1, 3),
                pools_json=json.dumps(pools),
                cap_json=json.dumps(self.random.choice([[], ["gpu"]])),
            )
        )

    def take(self, node_id: str) -> Steps:
        message = self.client.rpop(self.keys("node_queue", node_id))
        if message:
            job_id = json.loads(message)["headers"]["minsched"]["job_id"]
            self.holds[node_id].append(job_id)
            yield
            verdict, _ = self.service.claim_job(job_id, node_id)
            assert verdict == "run"
            self.ran[job_id] += 1

    def finish(self, node_id: str) -> None:
        if holds := self.holds[node_id]:
            job_id = holds.pop(self.random.randrange(len(holds)))
            self.service.complete_task(
                CompleteTaskRequest(job_id=job_id, node_id=node_id, status="finished")
            )

    def beat(self, node_id: str) -> None:
        self.service.heartbeat(HeartbeatRequest(node_id=node_id, jobs=self.holds[node_id]))

    def hand_back(self, node_id: str) -> Steps:
        plugin: Any = SimpleNamespace(scheduler=self.service)
        for job_id in park_queue(plugin, self.keys("node_queue", node_id)):
            yield
            self.service.place_jobs([job_id], handed_back_by=node_id)

    def die(self, node_id: str) -> None:
        """The node's last heartbeat was long ago."""
        self.client.hincrby(self.keys("node_info", node_id), "last_heartbeat_ts", -20_000)
        self.client.zincrby(self.keys("nodes"), -20_000, node_id)

    def no_slot_is_free_while_a_job_that_fits_it_waits(self) -> None:
        """Invariant 7. No other process changes Redis between these commands. They are few,
        because this runs after each step.
        """
        lines = self.client.hkeys(self.keys("lines"))
        if not lines:
            return
        with self.client.pipeline(transaction=False) as pipe:
            pipe.smembers(self.keys("lang", "zh:en"))
            for node_id in NODES:
                record = ("online", "draining", "max_jobs", "offers")
                pipe.hmget(self.keys("node_info", node_id), record)
                pipe.zcard(self.keys("node_jobs", node_id))
            serving, *answers = pipe.execute()
        takes_jobs, free = set(), set()
        offers: dict[str, set[str]] = {}
        for node_id, record, taken in zip(NODES, answers[::2], answers[1::2], strict=True):
            online, draining, max_jobs, offered = record
            offers[node_id] = set((offered or "").splitlines())
            if online == "true" and draining != "true":
                takes_jobs.add(node_id)
                if taken < int(max_jobs):
                    free.add(node_id)
        for line in lines:
            where, caps, required = line.split("/")
            choices = [
                {f"{pool}\t{cap}" for cap in caps.split(",")}
                for pool in (serving if ":" in where else [where])
            ]
            fit = {
                node
                for node, offered in offers.items()
                if any(indexes <= offered for indexes in choices)
            }
            if required in fit & takes_jobs:
                fit = {required}
            assert not fit & free, (line, fit, free)

    def run(self) -> None:
        going = [self.publisher() for _ in range(10)] + [self.node(name) for name in NODES[:3]]
        while going:
            process = self.random.choice(going)
            is_publisher = process.gi_code is Interleaving.publisher.__code__  # type: ignore[attr-defined]
            dies = is_publisher and self.random.random() < 0.05
            if dies or next(process, self) is self:
                going.remove(process)
                process.close()
            self.no_slot_is_free_while_a_job_that_fits_it_waits()
        self.settle()

    def settle(self) -> None:
        """Time passes, and a node that can run each job joins. All jobs end."""
        plugin: Any = SimpleNamespace(scheduler=self.service)
        self.holds["last"] = []
        self.service.register_node(
            RegisterNodeRequest(
                node_id="last",
                max_jobs=2,
                pools_json='["p", {"id": "q", "langs": [["zh", "en"]]}]',
                cap_json='["gpu"]',
            )
        )
        for _ in range(200):
            for node_id in NODES[:3]:
                jobs = self.client.zrange(self.keys("node_jobs", node_id), 0, -1)
                for job_id in jobs:
                    self.client.zadd(self.keys("node_jobs", node_id), {job_id: 1})
            for node_id in self.client.zrange(self.keys("rescues"), 0, -1):
                self.client.zadd(self.keys("rescues"), {node_id: 1})
            self.beat("last")
            dead, _ = self.service.claim_rescue()
            if dead:
                jobs = list(park_queue(plugin, self.keys("node_queue", dead)))
                self.service.rescue_node(dead, jobs)
            for _ in self.take("last"):
                pass
            self.finish("last")
            if self.is_quiet():
                break
        self.everything_ended_once()

    def is_quiet(self) -> bool:
        left = [self.keys(name) for name in ("lines", "rescues")]
        left += [self.keys("node_jobs", name) for name in NODES]
        return not self.client.exists(*left) and not self.client.keys("minsched.*")

    def everything_ended_once(self) -> None:
        assert self.is_quiet(), self.client.keys("*")
        assert Checker(self.views).check() == []
        for job_id in self.sent:
            job = self.views.job(job_id)
            assert job is not None
            if job.status == "finished":
                assert self.ran[job_id] == 1, job
            else:
                assert job.status == "lost", job
                assert job_id in self.lost, job
        for node in self.views.nodes():
            assert node.current_jobs == 0
        prefix = self.keys("job", "")
        jobs = {key.removeprefix(prefix) for key in self.client.keys(prefix + "*")}
        assert jobs - {"id_seq"} == self.sent


def interleave(server: Server, seeds: range) -> None:
    with redis.Redis(unix_socket_path=server.socket_path, decode_responses=True) as client:
        for seed in seeds:
            try:
                Interleaving(client, seed).run()
            except AssertionError as exc:
                raise AssertionError(f"interleaving {seed}") from exc
