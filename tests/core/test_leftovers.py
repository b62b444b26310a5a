"""Pools, nodes, lines, sessions and tasks leave no key after they are gone."""

from __future__ import annotations

import json

import redis

from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse

from ..support.desk import Desk, silence
from ..support.fleet import wait_for

LONG = 60_000  # ms


class Generation:
    """Pools and nodes that come and go, and jobs of each kind. The node ``keeper`` stays."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk, self.name = desk, name
        self.client, self.keys = desk.service.redis, desk.service.keys
        self.asr, self.mt, self.halted = (f"{kind}-{name}" for kind in ("asr", "mt", "halted"))
        self.nodes = [f"n{number}-{name}" for number in range(4)]
        self.tasks: list[str] = []

    def register(self, caps: str) -> None:
        pair = f"x{self.name}"
        mt = {"id": self.mt, "langs": [["zh", pair], ["en", pair]]}
        pools = ([self.asr], [mt], [self.asr, mt], [self.halted])
        for node_id, offered in zip(self.nodes, pools, strict=True):
            self.desk.node(node_id, 2, offered, caps.split())

    def send(self, **demand: object) -> None:
        task_id = f"t{len(self.tasks)}-{self.name}"
        self.tasks.append(task_id)
        self.desk.send(**({"pool": self.asr, "task_id": task_id, "token": task_id} | demand))

    def send_all(self) -> None:
        """Send more jobs than slots. Most jobs wait, in lines of each kind."""
        later, pair = self.desk.views.now() + LONG, f"x{self.name}"
        for number in range(3):
            self.send(session_id=f"s{number}-{self.name}")
            self.send(session_id=f"s{number}-{self.name}", affinity="require")
            self.send(fairness_key=f"f{number}-{self.name}", priority=3 * number)
            self.send(capabilities=["gpu"], priority=9)
            self.send(capabilities=["gpu", "large"])
            self.send(capabilities=[f"none-{self.name}"])
            self.send(pool=None, src_lang="auto", tgt_lang=f"zh:{pair}")
            self.send(pool=self.mt, src_lang="en", tgt_lang=pair)
            self.send(preferred_node=self.nodes[0], affinity="require")
            self.send(pool=self.halted)
            self.send(due_ts=later)
            self.send(expires_ts=later)

    def work(self) -> None:
        """One job of each node sends a retry and ends. Waiting jobs get the slots."""
        for node_id in self.nodes:
            for job_id in self.client.zrange(self.keys("node_jobs", node_id), 0, 0):
                self.client.lrem(self.keys("node_queue", node_id), 1, self.message(job_id))
                assert self.desk.service.claim_job(job_id, node_id)[0] == "run"
                job = self.desk.views.job(job_id)
                assert job is not None
                due_ts = self.desk.views.now() + LONG
                retry = {"task_id": job.task_id, "token": "retry", "due_ts": due_ts}
                self.desk.send(pool=job.pool, **retry)
                self.desk.complete(DispatchResponse(node_id=node_id, job_id=job_id))

    @staticmethod
    def message(job_id: str) -> str:
        return f'{{"text": "{{}}", "job_id": "{job_id}"}}'

    def change(self) -> None:
        """Nodes and pairs change pools and capabilities, nodes drain, tasks are revoked."""
        self.register("gpu other")
        self.desk.service.set_language_pools("zh", f"x{self.name}", [self.asr])
        self.desk.service.set_language_pools("zh", f"x{self.name}", [])
        for draining in (True, False):
            self.desk.service.drain_node(self.nodes[1], draining)
        for task_id in self.tasks[::3]:
            self.desk.service.revoke_tasks([task_id], "keeper")

    def die(self) -> None:
        """One job is lost with its node, the others are rescued, and the nodes are removed."""
        for node_id in self.nodes:
            queue = self.keys("node_queue", node_id)
            if running := self.client.zrange(self.keys("node_jobs", node_id), 0, 0):
                self.desk.service.claim_job(running[0], node_id)
                self.client.lrem(queue, 1, self.message(running[0]))
            silence(self.desk, node_id, 10 * LONG)
            self.beat()
            moved = []
            for raw in self.client.lrange(queue, 0, -1):
                moved.append(json.loads(raw)["job_id"])
                self.client.lmove(queue, self.keys("job_queue", moved[-1]), "LEFT", "LEFT")
            self.desk.service.rescue_node(node_id, moved)
            assert self.desk.service.rescue_node(node_id)[2] == 0
        self.client.delete(self.keys("lost"))  # they are reported
        self.client.zadd(self.keys("nodes"), dict.fromkeys(self.nodes, -1))
        self.client.hset(self.keys("heard"), "since", 1)
        wait_for(self.is_forgotten, "the nodes to be forgotten")

    def is_forgotten(self) -> bool:
        """Send a heartbeat of the keeper. True if Redis has no other node after it."""
        self.beat()
        return bool(self.client.zrange(self.keys("nodes"), 0, -1) == ["keeper"])

    def end(self) -> None:
        """Revoke all tasks. Their waiting jobs expire."""
        for task_id in self.tasks:
            self.desk.service.revoke_tasks([task_id], "keeper")
        waiting = [job.job_id for job in self.desk.views.jobs() if not job.has_slot]
        for job_id in waiting:
            self.client.hset(self.keys("job", job_id), "expires_ts", 1)
            self.client.zadd(self.keys("expiring"), {job_id: 1})
        self.beat()
        self.client.delete(self.keys("node_queue", "keeper"))  # its worker discards them

    def beat(self) -> None:
        while self.desk.beat("keeper").next_due_ms == 0:
            pass


def lapse(client: redis.Redis) -> None:
    """Time passes: keys with a TTL expire."""
    for key in client.scan_iter("*"):
        if client.ttl(key) >= 0 and not key.endswith(":heard"):
            client.delete(key)


def sizes(client: redis.Redis) -> dict[str, int]:
    """The number of members of each key, without the log of events, which has its own bound."""
    counts = {"hash": client.hlen, "set": client.scard, "zset": client.zcard, "list": client.llen}
    kinds = {key: client.type(key) for key in client.scan_iter("*") if not key.endswith(":events")}
    return {key: counts.get(kind, client.strlen)(key) for key, kind in kinds.items()}


def test_each_generation_of_pools_nodes_and_tasks_leaves_as_many_keys_as_the_last(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("keeper", 1, ["keep"])
    left = []
    for number in range(10, 13):
        it = Generation(desk, str(number))
        it.register("gpu large")
        desk.service.pause_pool(it.halted)
        it.send_all()
        it.work()
        it.change()
        assert Checker(desk.views).check() == []
        it.die()
        assert Checker(desk.views).check() == []
        it.end()
        lapse(client)
        assert Checker(desk.views).check() == []
        left.append(sizes(client))
        assert not [key for key in left[-1] if it.name in key]
    numbers = [key for key in left[0] if key.endswith(("id_seq", ":turn"))]  # they count up
    for key_sizes in left:
        for key in numbers:
            del key_sizes[key]
    assert left[1] == left[2]
    assert left[0].keys() == left[1].keys()


def test_a_pool_that_returns_after_its_last_node_left_is_not_paused(
    desk: Desk, client: redis.Redis
) -> None:
    desk.node("keeper", 1, ["keep"])
    for pools in (["asr"], ["asr", "mt"], ["mt", "asr"]):
        desk.node("n1", 1, pools)
        desk.service.pause_pool("asr")
        assert desk.views.paused() == {"asr"}  # also when its only node registers anew
    desk.beat("n1", online=False, jobs=[])
    desk.node("n2", 1)
    assert desk.send().node_id == ""  # nor if another node comes while the record of n1 stays
    for node_id in ("n1", "n2"):
        desk.beat(node_id, online=False, jobs=[])
        client.zadd(desk.service.keys("nodes"), {node_id: -1})  # long ago
    client.hset(desk.service.keys("heard"), "since", 1)
    desk.beat("keeper")
    assert desk.views.paused() == set()
    desk.node("n3", 2)
    assert desk.taken("n3") == 1
    assert desk.send().node_id == "n3"
    desk.service.pause_pool("asr")
    desk.node("n3", 2, ["mt"])  # it serves another pool from now on
    assert desk.views.paused() == set()
    client.delete(desk.service.keys("node_queue", "n3"))
