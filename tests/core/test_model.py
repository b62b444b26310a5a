"""Compares the scripts with a model in Python, and checks the invariants after each step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celery_minsched import (
    CompleteTaskRequest,
    DispatchRequest,
    EmptyPool,
    HeartbeatRequest,
    MinimalSchedulerService,
    NoAvailableNode,
    NodeMismatch,
)
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.models import DispatchResponse
from celery_minsched.monitor.queries import Views

from ..support.desk import Desk
from ..support.model import Job, Model, Node
from ..support.server import Server

NODES = st.sampled_from(["a", "b", "c"])
POOLS = st.frozensets(st.sampled_from(["p", "q"]), min_size=1)
CAPS = st.frozensets(st.sampled_from(["gpu", "big"]))
LOADS = (0, 33, 34, 67, 100)
PLACED = ("dispatched", "running")


class Scheduler(RuleBasedStateMachine):
    """One run of hypothesis: an empty server, and any sequence of calls."""

    server: Server
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.client = self.server.client()
        self.client.flushall()
        self.service = MinimalSchedulerService(self.client)
        self.views = Views(self.client, self.service.keys)
        self.model = Model()
        self.joined = 0

    def teardown(self) -> None:
        for job_id, job in self.model.jobs.items():  # every task has ended
            if job.status in PLACED:
                self.service.complete_task(
                    CompleteTaskRequest(job_id=job_id, node_id=job.node, status="failed")
                )
                self.model.end(job_id, "failed")
                self.follow_waiting()
        for node in self.views.nodes():  # so every slot is free
            assert node.current_jobs == len(self.model.nodes[node.node_id].jobs)
        assert Checker(self.views).check() == []
        self.client.close()

    @rule(name=NODES, slots=st.integers(1, 3), pools=POOLS, caps=CAPS, online=st.booleans())
    def register(
        self, name: str, slots: int, pools: frozenset[str], caps: frozenset[str], online: bool
    ) -> None:
        Desk(self.service).node(name, slots, sorted(pools), sorted(caps), online=online)
        old = self.model.nodes.get(name, Node(slots, pools, caps))
        self.model.nodes[name] = Node(
            slots, pools, caps, online, old.draining, old.load, old.turn, old.jobs
        )
        self.follow_waiting()

    @rule(name=NODES, cpu=st.sampled_from(LOADS), online=st.booleans(), report_jobs=st.booleans())
    def beat(self, name: str, cpu: int, online: bool, report_jobs: bool) -> None:
        node = self.model.nodes.get(name)
        if node is None:
            return
        jobs = sorted(node.jobs) if report_jobs and (online or node.jobs) else None
        answer = self.service.heartbeat(
            HeartbeatRequest(
                node_id=name, online=online, load_json=json.dumps({"cpu": cpu}), jobs=jobs
            )
        )
        node.online, node.load = online, cpu
        for job_id in jobs or ():
            self.model.jobs[job_id].status = "running"
        assert answer.not_yours == []
        self.follow_waiting()

    @rule(name=NODES, draining=st.booleans())
    def drain(self, name: str, draining: bool) -> None:
        if node := self.model.nodes.get(name):
            self.service.drain_node(name, draining)
            node.draining = draining
            self.follow_waiting()

    @rule(
        target=jobs,
        pool=st.sampled_from(["p", "q"]),
        caps=CAPS,
        session=st.sampled_from(["", "s1", "s2"]),
        affinity=st.sampled_from(["prefer", "require", "none"]),
        wait=st.booleans(),
        fairness=st.sampled_from(["", "x"]),
        priority=st.integers(0, 9),
    )
    def dispatch(
        self,
        pool: str,
        caps: frozenset[str],
        session: str,
        affinity: Any,
        wait: bool,
        fairness: str,
        priority: int,
    ) -> str:
        job = Job(pool, caps, session, affinity, fairness=fairness, band=priority // 3)
        expected = self.model.choose(job)
        request = DispatchRequest(
            pool=pool,
            capabilities=sorted(caps),
            session_id=session,
            affinity=affinity,
            when_full="wait" if wait else "error",
            fairness_key=fairness,
            priority=priority,
            task_id=f"t{len(self.model.jobs)}",
        )
        if not expected and not wait:
            refusal = NoAvailableNode if self.model.is_possible(job) else EmptyPool
            with pytest.raises(refusal):
                self.service.dispatch_task(request)
            return ""
        [place] = self.service.dispatch_tasks([(request, ("{", "}"))])
        assert isinstance(place, DispatchResponse)
        assert place.node_id == expected
        self.model.jobs[place.job_id] = job
        if expected:
            self.model.give(place.job_id, expected)
            return place.job_id
        assert place.chosen_by == ("busy" if self.model.is_possible(job) else "impossible")
        job.required = self.model.required_node(job)
        job.status, job.order = "waiting", self.next_in_line()
        return place.job_id

    @rule(job_id=jobs, claim=st.booleans(), name=NODES)
    def place_again(self, job_id: str, claim: bool, name: str) -> None:
        """A job that has a slot, waits or has ended is not placed again."""
        job = self.model.jobs.get(job_id)
        if job is None or job.status == "lost":
            return
        assert self.service.place_jobs([job_id], handed_back_by=name) == ["unchanged"]
        if claim and job.status in PLACED:
            assert self.service.claim_job(job_id, job.node)[0] == "run"
            job.status = "running"

    @rule(job_id=jobs, times=st.integers(1, 2), name=NODES, takes_next=st.booleans())
    def complete(self, job_id: str, times: int, name: str, takes_next: bool) -> None:
        job = self.model.jobs.get(job_id)
        if job is None or job.status not in PLACED:
            return
        wrong = CompleteTaskRequest(job_id=job_id, node_id=name, status="finished")
        if name != job.node:
            with pytest.raises(NodeMismatch):
                self.service.complete_task(wrong)
        next_claim = f"claim {self.joined}" if takes_next else ""
        right = wrong.model_copy(update={"node_id": job.node, "next_claim": next_claim})
        answers = [self.service.complete_task(right).next_job for _ in range(times)]
        assert answers[0] == answers[-1]
        self.model.end(job_id, "finished")
        self.follow_waiting()
        if place := answers[0]:
            assert place.message == f'{{"{place.job_id}"}}'.encode()
            assert self.model.jobs[place.job_id].node == job.node
            self.model.jobs[place.job_id].status = "running"

    @rule(job_id=jobs, requeued=st.booleans())
    def hand_back(self, job_id: str, requeued: bool) -> None:
        """The node hands the job back, or the task requeues its message."""
        job = self.model.jobs.get(job_id)
        if job is None or job.status not in PLACED:
            return
        keys, node_id, message = self.service.keys, job.node, f'{{"{job_id}"}}'
        suffix = self.client.hget(keys("job", job_id), "suffix") or ""
        self.client.lrem(keys("node_queue", node_id), 0, message)
        self.client.hdel(keys("node_unacked", node_id), job_id)
        self.client.lpush(keys("job_queue", job_id) + suffix, message)
        self.model.end(job_id, "parked")
        others = [
            other
            for other in self.model.jobs.values()
            if other.status == "waiting" and self.model.could_take(node_id, other)
        ]
        [outcome] = self.service.place_jobs([job_id], node_id, requeued)
        job.status = "waiting"
        job.order = self.next_in_line() if requeued else (0, int(job_id.rpartition(":")[2]))
        job.required = (self.client.hget(keys("job", job_id), "line") or "").rpartition("/")[2]
        self.follow_waiting()
        assert job.status == outcome
        if requeued and others:  # the waiting jobs had priority for the slot
            assert (outcome, job.node) != ("dispatched", node_id)

    @rule(job_id=jobs, times=st.integers(1, 2))
    def release(self, job_id: str, times: int) -> None:
        job = self.model.jobs.get(job_id)
        if job is None or job.status != "dispatched":
            return
        for _ in range(times):
            self.service.release_job(job_id)
        self.model.end(job_id, "lost")
        self.follow_waiting()

    @rule(job_id=jobs, name=NODES)
    def revoke(self, job_id: str, name: str) -> None:
        job = self.model.jobs.get(job_id)
        view = self.views.job(job_id)
        if job is None or view is None or name not in self.model.nodes:
            return
        discarded = self.service.revoke_tasks([view.task_id], name)
        assert discarded == (job.status == "waiting")
        if discarded:
            job.status = "failed"
            self.follow_waiting()

    def next_in_line(self) -> tuple[int, int]:
        self.joined += 1
        return (1, self.joined)

    def follow_waiting(self) -> None:
        """Follow the waiting jobs that got slots.

        Each must fit its node, and no job may overtake an earlier job of its line, key and
        priority.
        """
        started = []
        for node_id in self.model.nodes:
            for job_id in self.client.zrange(self.service.keys("node_jobs", node_id), 0, -1):
                job = self.model.jobs[job_id]
                if job.status == "waiting":
                    node = self.model.nodes[node_id]
                    assert self.model.fits(node, job)
                    assert node.takes_jobs
                    self.model.give(job_id, node_id)
                    started.append(job_id)
        for job_id in started:
            assert self.model.overtaken(job_id) == []

    @invariant()
    def redis_and_the_model_agree(self) -> None:
        assert Checker(self.views).check() == []  # invariants 1, 2, 3 and 7
        for node in self.views.nodes():
            model_node = self.model.nodes[node.node_id]
            jobs = self.client.zrange(self.service.keys("node_jobs", node.node_id), 0, -1)
            assert set(jobs) == model_node.jobs
            info = self.client.hgetall(self.service.keys("node_info", node.node_id))
            model_node.turn = int(info.get("turn", 0))
            homes = self.model.sessions
            for session, home in homes.items():
                assert self.client.hget(self.service.keys("session", session), "node_id") == home
        for job_id, job in self.model.jobs.items():
            view = self.views.job(job_id)
            assert view is not None
            assert view.status == job.status
            if job.status == "waiting":
                assert not any(self.model.could_take(name, job) for name in self.model.nodes)

    @precondition(lambda self: self.model.nodes)
    @invariant()
    def no_node_holds_more_jobs_than_slots(self) -> None:
        for name, node in self.model.nodes.items():
            jobs = self.client.zcard(self.service.keys("node_jobs", name))
            free = self.client.zscore(self.service.keys("pool_free", min(node.pools)), name)
            assert (free is not None) == node.is_free
            assert jobs == len(node.jobs)


def run(server: Server, examples: int, steps: int) -> None:
    Scheduler.server = server
    run_state_machine_as_test(
        Scheduler,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_scripts_agree_with_the_model(server: Server) -> None:
    run(server, examples=40, steps=30)


@pytest.mark.soak
def test_the_scripts_agree_with_the_model_in_long_runs(server: Server) -> None:
    run(server, examples=2000, steps=60)
