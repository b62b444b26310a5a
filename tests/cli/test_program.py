"""The commands as processes, and remote control of a worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import click
import pytest
from celery.bin.control import control, inspect
from kombu.utils.imports import symbol_by_name

from celery_minsched.cli import minsched
from celery_minsched.plugin import remote

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import ROOT, Fleet, app_environment, wait_for
from ..support.server import Server

#: The celery program with the commands. It needs no installed entry point.
CELERY = (
    "from celery.bin.celery import celery, main; from celery_minsched.cli import minsched;"
    "celery.add_command(minsched); main()"
)


@contextmanager
def celery_program(server: Server, *args: str) -> Iterator[subprocess.Popen[str]]:
    environment = app_environment(server.url)
    with subprocess.Popen(
        [sys.executable, "-c", CELERY, "-A", "tests.support.app", "minsched", *args],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class TestProgram:
    def test_the_entry_point_names_the_group(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["entry-points"]["celery.commands"] == {
            "minsched": "celery_minsched.cli:minsched"
        }
        assert symbol_by_name("celery_minsched.cli:minsched") is minsched
        assert minsched.name == "minsched"

    def test_events_and_top_run_until_ctrl_c(self, server: Server, desk: Desk) -> None:
        desk.node("n1", 1)
        with (
            celery_program(server, "events", "--follow", "--json") as events,
            celery_program(server, "top", "--json", "--interval", "0.1") as top,
        ):
            assert events.stdout
            assert top.stdout
            assert json.loads(events.stdout.readline())["kind"] == "node_joined"
            desk.service.drain_node("n1")
            assert json.loads(events.stdout.readline())["kind"] == "node_drained"
            event = {"kind": "of the far future"}  # the next event starts a new stream
            desk.service.redis.xadd("scheduler:events", event, "1000000000000000-0")
            assert json.loads(events.stdout.readline())["kind"] == "of the far future"
            desk.service.pause_pool("asr")
            assert json.loads(events.stdout.readline())["kind"] == "pool_paused"
            desk.service.pause_pool("asr", False)
            snapshots = map(json.loads, top.stdout)
            assert any(snapshot["nodes"][0]["state"] == "draining" for snapshot in snapshots)
            for process in (events, top):
                process.send_signal(signal.SIGINT)
            for process in (events, top):
                assert process.communicate(timeout=60)[1] == ""
                assert process.returncode == 0


class TestRemoteControl:
    def test_a_node_reports_its_state_and_can_be_drained(self, fleet: Fleet) -> None:
        fleet.start_ready("n1", "-P", "threads")
        on_n1 = ("-d", "celery@n1", "--json", "-t", "5")

        def ask(*args: str, command: click.Command = inspect) -> Any:
            result = run_with(fleet.app, *args, *on_n1, command=command)
            assert result.exit_code == 0, result.output
            return json.loads(result.stdout)["celery@n1"]

        fleet.send("hold", "x")
        wait_for(lambda: ask("minsched")["jobs"], "the node to hold its job")
        state = ask("minsched")
        assert (state["node_id"], state["max_jobs"], state["draining"]) == ("n1", 2, False)
        assert state["seconds_since_heard"] < 8

        control_ = run_with(fleet.app, "minsched_drain", *on_n1, command=control)
        assert json.loads(control_.stdout) == [
            {"celery@n1": {"ok": "takes no more jobs in a moment"}}
        ]
        wait_for(lambda: (node := fleet.node("n1")) and node.draining, "the node to drain")
        wait_for(lambda: ask("minsched")["draining"], "the node to know")
        run_with(fleet.app, "minsched_undrain", *on_n1, command=control)
        wait_for(lambda: (node := fleet.node("n1")) and node.takes_jobs, "the node to take jobs")
        wait_for(lambda: "node n1 is not draining any more" in fleet.log("n1"), "the log")
        assert "node n1 is online with 2 slots" in fleet.log("n1")
        assert "node n1 is draining" in fleet.log("n1")
        fleet.app.backend.client.lpush("test:release:x", "go")
        fleet.wait_idle()
        fleet.stop("n1")
        assert "node n1 has left" in fleet.log("n1")

    @pytest.mark.parametrize("name", ["minsched", "minsched_drain", "minsched_undrain"])
    def test_a_worker_that_is_no_node_answers_with_an_error(self, name: str) -> None:
        answer = getattr(remote, name)(SimpleNamespace(app=object(), hostname="w1"))
        assert "w1 is not a node of the scheduler" in answer["error"]
