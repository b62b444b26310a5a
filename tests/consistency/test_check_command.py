"""``celery minsched check``: its output and its exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import ROOT, app_environment, make_app
from ..support.server import Server, free_port

COUNT = "scheduler:node:runtime:n1"


@pytest.fixture
def app(server: Server, desk: Desk) -> Iterator[Celery]:
    """An application, and a node with a job."""
    desk.node("n1")
    desk.dispatch()
    app = make_app(server.url)
    yield app
    app.close()


def test_a_sound_state_gives_exit_code_0(app: Celery) -> None:
    answer = run_with(app, "check")
    assert (answer.exit_code, answer.output) == (0, "No violation found.\n")
    answer = run_with(app, "check", "--json")
    assert json.loads(answer.output) == {"sound": True, "found": [], "left": []}


def test_a_violation_is_named_with_its_keys_and_gives_exit_code_1(
    app: Celery, client: redis.Redis
) -> None:
    client.hset(COUNT, "current_jobs", 7)
    answer = run_with(app, "check")
    assert answer.exit_code == 1
    assert answer.output == (
        "violation: node n1: current_jobs is 7, but the size of its job set is 1\n"
        "    slot_count: scheduler:node:runtime:n1, scheduler:node:jobs:n1\n"
        "1 found. Mend them with --repair.\n"
    )
    answer = run_with(app, "check", "--json")
    assert answer.exit_code == 1
    [violation] = json.loads(answer.output)["found"]
    assert (violation["code"], violation["keys"]) == (
        "slot_count",
        [COUNT, "scheduler:node:jobs:n1"],
    )
    assert client.hget(COUNT, "current_jobs") == "7"  # a check changes nothing
    client.hset(COUNT, "current_jobs", 1)


def test_a_repaired_violation_gives_exit_code_0(app: Celery, client: redis.Redis) -> None:
    client.hset(COUNT, "current_jobs", 7)
    answer = run_with(app, "check", "--repair")
    assert answer.exit_code == 0
    assert answer.output.startswith("mended: node n1")
    assert answer.output.endswith("1 found, 0 left.\n")
    assert run_with(app, "check", "--repair").output == "No violation found.\n"


def test_a_remaining_violation_has_a_remedy_and_gives_exit_code_1(
    app: Celery, client: redis.Redis
) -> None:
    client.lpush("minsched.job.u1:7", "by hand")
    answer = run_with(app, "check", "--repair")
    assert answer.exit_code == 1
    assert answer.output.startswith("left: job u1:7 has no record")
    assert "LINDEX key -1" in answer.output
    report = json.loads(run_with(app, "check", "--repair", "--json").output)
    assert (report["sound"], report["left"][0]["code"]) == (False, "message_without_job")
    client.delete("minsched.job.u1:7")


def test_the_output_fits_80_columns_and_a_key_sends_no_command_to_a_terminal(
    app: Celery, client: redis.Redis
) -> None:
    client.lpush(f"minsched.job.\x1b[2J{'x' * 90}:7\x06\x169", "x")
    answer = run_with(app, "check")
    assert max(map(len, answer.output.splitlines())) <= 80
    assert all(line.isprintable() for line in answer.output.splitlines())
    client.delete(f"minsched.job.\x1b[2J{'x' * 90}:7\x06\x169")


class TestFailure:
    """The command prints a sentence without a traceback. Its exit code is 2."""

    def test_an_unreachable_redis_is_reported(self, no_pauses: None) -> None:
        answer = run_with(make_app(f"redis://127.0.0.1:{free_port()}/0"), "check")
        assert answer.exit_code == 2
        assert answer.stderr.startswith("Error: Redis does not answer correctly")
        assert "Traceback" not in answer.stderr

    def test_an_application_without_a_scheduler_is_reported(self, server: Server) -> None:
        answer = run_with(Celery("plain", broker=server.url, set_as_current=False), "check")
        assert answer.exit_code == 2
        assert "the application 'plain' has no scheduler" in answer.stderr

    def test_an_unknown_option_is_reported(self, app: Celery) -> None:
        assert run_with(app, "check", "--mend").exit_code == 2


def test_a_terminal_shows_progress_and_a_pipe_does_not(server: Server, desk: Desk) -> None:
    desk.node("n1")
    command = [sys.executable, "-m", "celery", "-A", "tests.support.app", "minsched", "check"]
    environment = app_environment(server.url)
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdout=terminal, stderr=terminal, env=environment, cwd=ROOT, close_fds=True
    )
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # Linux: the last process has closed the terminal
        while some := os.read(master, 4096):
            output += some
    os.close(master)
    assert process.wait(60) == 0
    assert b"Reading keys" in output
    assert b"No violation found." in output
    piped = subprocess.run(command, capture_output=True, env=environment, cwd=ROOT, check=True)
    assert (piped.stdout, piped.stderr) == (b"No violation found.\n", b"")
