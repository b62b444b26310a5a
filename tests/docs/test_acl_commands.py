"""Each command of ``celery minsched`` works with the role that docs/security.md names for it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import Result
from prometheus_client import CollectorRegistry, generate_latest

from celery_minsched import MinimalSchedulerService
from celery_minsched.cli import minsched
from celery_minsched.monitor.lines import job_ids_in
from celery_minsched.plugin.metrics import register

from ..support.acl import PAGE, Guarded, complete_file, programs
from ..support.commands import run_with
from ..support.desk import Desk

TASK = "6f1c1f2e-9d0a-4b7e-8a51-0d1f3c2b4a51"

#: A call of each command, by its name in the table. The commands in ``ELSEWHERE`` have other tests.
CALLS = {
    "nodes": ["nodes"],
    "pools": ["pools"],
    "jobs": ["jobs"],
    "waiting": ["waiting"],
    "why": ["why", TASK],
    "top": ["top", "--once", "--interval", "0.1"],
    "events": ["events"],
    "check": ["check"],
    "drain": ["drain", "n1"],
    "undrain": ["undrain", "n1"],
    "pause": ["pause", "asr"],
    "resume": ["resume", "asr"],
    "rescue": ["rescue", "silent", "--timeout", "0"],
    "check --repair": ["check", "--repair"],
}
#: ``why``: the job waits. ``rescue``: no process rescues.
EXIT_CODES = {"why": 3, "rescue": 1}
ELSEWHERE = {"exporter", "flower", "migrate", "adopt", "release", "scripts", "simulate"}


def roles() -> dict[str, str]:
    """The role of each command, from the page."""
    _, _, after = PAGE.read_text().partition("| role | commands |\n")
    lines = after.partition("\n\n")[0].splitlines()[1:]
    cells = (line.strip("| ").split(" | ") for line in lines)
    return {command: role for role, text in cells for command in re.findall(r"`([^`]+)`", text)}


ROLES = roles()


def test_the_page_names_the_role_of_each_command() -> None:
    assert {command.partition(" ")[0] for command in ROLES} == set(minsched.commands)
    assert CALLS.keys() | ELSEWHERE == ROLES.keys()


@pytest.fixture(scope="module", params=programs(), ids=lambda path: Path(path).name)
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """A server of each program."""
    conf = complete_file(tmp_path_factory.mktemp("acl") / "redis-acl.conf")
    server = Guarded(conf, request.param)
    yield server
    server.close()


@pytest.fixture
def fleet(guarded: Guarded) -> Iterator[Desk]:
    """A node with running, waiting and delayed jobs, and a silent node."""
    with guarded.client() as admin:
        admin.flushall()
        desk = Desk(MinimalSchedulerService(admin))
        desk.node("n1")
        desk.node("silent", pools=["mt"])
        for n in range(4):
            desk.send(task_id=f"{TASK[:-1]}{n}", session_id="u1")
        desk.park(task_id=TASK)
        desk.send(due_ts=10**15)
        admin.hset("scheduler:node:info:silent", "last_heartbeat_ts", 1)
        admin.zadd("scheduler:nodes", {"silent": 1})
        guarded.denials()
        yield desk


def run(guarded: Guarded, role: str, command: str) -> Result:
    app = guarded.app_of(role)
    try:
        return run_with(app, *CALLS[command])
    finally:
        app.close()


@pytest.mark.parametrize("command", CALLS)
def test_a_command_works_with_its_role(guarded: Guarded, fleet: Desk, command: str) -> None:
    answer = run(guarded, ROLES[command], command)
    assert answer.exit_code == EXIT_CODES.get(command, 0), answer.output
    assert answer.stderr == ""
    assert guarded.denials() == []


@pytest.mark.parametrize("command", [name for name in CALLS if ROLES[name] == "operator"])
def test_a_viewer_cannot_change_anything(guarded: Guarded, fleet: Desk, command: str) -> None:
    fleet.service.redis.hset("scheduler:node:runtime:n1", "current_jobs", 7)
    before = guarded.contents()
    refused = run(guarded, "viewer", command)
    assert refused.exit_code == 2, refused.output
    assert "permission" in refused.stderr
    assert {denial["username"] for denial in guarded.denials()} == {"viewer"}
    assert guarded.contents() == before


def break_all(admin: redis.Redis) -> None:
    """Make a violation of each kind that a repair mends."""
    admin.hset("scheduler:node:runtime:n1", "current_jobs", 7)
    admin.hset("scheduler:waiting_counts", "asr", 70)
    admin.hset("scheduler:lines", "zz//", "")
    admin.persist("scheduler:session:u1")
    admin.sadd("_kombu.binding.minsched.node.gone", "x")
    admin.sadd("_kombu.binding.other.pidbox", "of another program")
    admin.hset("minsched.unacked.gone", "tag", '[{"body": "secret"}, "", "minsched.node.gone"]')
    admin.zadd("minsched.unacked_index.gone", {"tag": 1})
    for job in admin.zrange("scheduler:node:jobs:n1", 0, 0):
        admin.delete(f"scheduler:job:{job}")


def test_a_viewer_finds_the_violations_and_an_operator_repairs_them(
    guarded: Guarded, fleet: Desk
) -> None:
    break_all(fleet.service.redis)
    check = run(guarded, "viewer", "check")
    assert check.exit_code == 1
    codes = set(re.findall(r"^    (\w+): ", check.output, re.MULTILINE))
    assert codes >= {"slot_count", "key_stays", "stray_binding", "left_behind"}, check.output
    assert {denial["object"] for denial in guarded.denials()} <= {"lrange"}
    repair = run(guarded, "operator", "check --repair")
    assert (repair.exit_code, repair.stderr) == (0, ""), repair.output
    assert guarded.denials() == []
    assert run(guarded, "viewer", "check").output == "No violation found.\n"


def test_the_exporter_works_with_the_role_viewer(guarded: Guarded, fleet: Desk) -> None:
    app, registry = guarded.app_of("viewer"), CollectorRegistry()
    register(app, registry)
    text = generate_latest(registry).decode()
    app.close()
    assert "\nminsched_up 1.0\n" in text
    assert guarded.denials() == []


def test_a_producer_can_free_a_slot_if_the_next_job_has_lost_its_message(
    guarded: Guarded, fleet: Desk
) -> None:
    admin = fleet.service.redis
    [first, *_] = job_ids_in(fleet.views.reader, "asr//")
    admin.delete(f"minsched.job.{first}")
    later = fleet.send(task_id=admin.hget(f"scheduler:job:{first}", "task_id"))
    [running, *_] = admin.zrange("scheduler:node:jobs:n1", 0, -1)
    guarded.service_of("producer").release_job(running)
    assert guarded.denials() == []
    assert admin.hget(f"scheduler:job:{first}", "status") == "lost"
    assert later.node_id == ""


def test_a_producer_can_send_tasks_while_a_node_is_silent(guarded: Guarded, fleet: Desk) -> None:
    admin = fleet.service.redis
    admin.hset("scheduler:heard", mapping={"last": 1, "since": 1})
    Desk(guarded.service_of("producer")).send(pool="mt")
    assert guarded.denials() == []
    assert admin.hexists("scheduler:heard", "missed")
