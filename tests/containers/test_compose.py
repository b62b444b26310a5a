"""The services of docker-compose.yml start, run jobs, and survive the loss of a node.

The variable ``COMPOSE`` names the program, such as ``docker-compose``. The default is the installed
program.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import docker
import pytest

from ..support.fleet import ROOT, wait_for
from ..support.server import free_port

PROJECT = "minsched-check"
SERVICES = {"redis", "large", "medium", "small", "flower", "producer"}
PASSWORDS = {"REDIS_PASSWORD": "of-redis", "FLOWER_PASSWORD": "of-flower"}
NODE = re.compile(r"(\w+) +pool (\w+) +(\d) slots +(\d+) jobs +slots busy for ([\d.]+) s")


class Stack:
    """The services of docker-compose.yml with a separate project name."""

    def __init__(self) -> None:
        self.flower_port = free_port()
        self._compose = shlex.split(os.environ.get("COMPOSE") or _compose())
        self._docker = docker.from_env()

    def __call__(self, *command: str) -> str:
        """Run a command of compose. Returns its output. A failed command fails the test."""
        process = subprocess.run(
            [*self._compose, "--project-name", PROJECT, *command],
            cwd=ROOT,
            env={**os.environ, "FLOWER_PORT": str(self.flower_port), **PASSWORDS},
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, f"{command}:\n{process.stdout}\n{process.stderr}"
        return process.stdout

    def state(self, service: str) -> dict[str, Any]:
        """The state of a service's container, which may have ended."""
        prefix = "com.docker.compose"
        labels = [f"{prefix}.project={PROJECT}", f"{prefix}.service={service}"]
        [container] = self._docker.containers.list(all=True, filters={"label": labels})
        return dict(container.attrs["State"])

    def wait_healthy(self, *services: str) -> None:
        for service in services:
            wait_for(
                lambda service=service: self.state(service)["Health"]["Status"] == "healthy",
                f"{service} to be healthy",
                patience=120,
            )

    def round(self, number: int) -> dict[str, int] | None:
        """The number of jobs in each end status, if the round has ended."""
        line = re.search(rf"round {number}: (\d+) jobs in [\d.]+ s, (.*)", self("logs", "producer"))
        if not line or not self.shares(number):
            return None
        ended = {status: int(count) for count, status in re.findall(r"(\d+) (\w+)", line[2])}
        return {"all": int(line[1]), **ended}

    def shares(self, number: int) -> dict[str, tuple[str, int, int, float]]:
        """For each node in a round: its pool, slots, jobs and the busy time of its slots."""
        _, _, log = self("logs", "producer").partition(f"round {number}: ")
        this_round, _, _ = log.partition(f"round {number + 1}: ")
        shares = {
            node: (pool, int(slots), int(jobs), float(busy))
            for node, pool, slots, jobs, busy in NODE.findall(this_round)
        }
        return shares if len(shares) == 3 else {}


def _compose() -> str:
    has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "docker-compose" if has_plugin.returncode else "docker compose"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack("up", "--detach", "--build")
        yield stack
    finally:
        stack("down", "--volumes", "--timeout", "20")


def test_every_service_becomes_healthy(stack: Stack) -> None:
    assert set(stack("config", "--services").split()) == SERVICES
    stack.wait_healthy(*SERVICES)


def test_each_node_runs_jobs_in_proportion_to_its_slots(stack: Stack) -> None:
    ended = wait_for(lambda: stack.round(1), "the first round", patience=300)
    assert ended["finished"] == ended["all"]
    shares = stack.shares(1)
    assert sum(jobs for _, _, jobs, _ in shares.values()) == ended["all"]
    assert {node: share[:2] for node, share in shares.items()} == {
        "large": ("pack", 4),
        "medium": ("pack", 2),
        "small": ("index", 1),
    }
    # All slots of the pool were busy for the same time.
    large, medium = (shares[node][3] / shares[node][1] for node in ("large", "medium"))
    assert large == pytest.approx(medium, rel=0.2)


def test_flower_shows_each_node_as_a_worker_with_its_id(stack: Stack) -> None:
    url = f"http://127.0.0.1:{stack.flower_port}/api/workers?refresh=1"
    with pytest.raises(HTTPError, match="401"):
        urlopen(url, timeout=30)
    headers = {"Authorization": f"Basic {b64encode(b'flower:of-flower').decode()}"}

    def workers() -> dict[str, Any]:
        with urlopen(Request(url, headers=headers), timeout=30) as answer:
            return dict(json.load(answer))

    names = {"celery@large", "celery@medium", "celery@small"}
    workers_page = wait_for(
        lambda: (page := workers()) and names <= set(page) and page, "workers", 60
    )
    assert set(workers_page) == names
    [queue] = workers_page["celery@large"]["active_queues"]
    assert queue["name"] == "minsched.node.large"


def test_a_node_that_is_stopped_ends_and_loses_no_job(stack: Stack) -> None:
    number = _next_round(stack)
    stack("stop", "medium")
    assert stack.state("medium")["ExitCode"] == 0
    ended = wait_for(lambda: stack.round(number), f"round {number}", patience=300)
    assert ended["finished"] == ended["all"]
    stack("start", "medium")
    stack.wait_healthy("medium")


def test_a_node_that_is_killed_loses_only_running_jobs(stack: Stack) -> None:
    number = _next_round(stack)
    stack("kill", "large")
    ended = wait_for(lambda: stack.round(number), f"round {number}", patience=300)
    assert ended.get("lost", 0) <= 4
    assert ended["finished"] + ended.get("lost", 0) == ended["all"]


def _next_round(stack: Stack) -> int:
    """Wait until the next round begins. Returns its number."""
    number = 1
    while stack.round(number):
        number += 1

    def jobs_of_large() -> str:
        count = stack("exec", "-T", "redis", "redis-cli", "zcard", "scheduler:node:jobs:large")
        return count.strip() if count.strip() != "0" else ""

    wait_for(jobs_of_large, f"round {number} to begin", patience=60)
    return number
