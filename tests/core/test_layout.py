"""The layout of the keys has a number. A process refuses to start on another layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest

from celery_minsched import DispatchRequest, MinimalSchedulerService, WrongLayout
from celery_minsched.consistency.checker import Checker
from celery_minsched.core.layout import LAYOUT, layout_of
from celery_minsched.plugin.metrics import register

from ..support.commands import run_with
from ..support.desk import Desk
from ..support.fleet import Fleet, make_app, wait_for
from ..support.old_layout import OldProgram, assert_untouched, fill
from ..support.server import Server

LAYOUT_KEY = "scheduler:layout"


@pytest.fixture
def app(server: Server) -> Celery:
    return make_app(server.url)


def refusal(app: Celery) -> str:
    with pytest.raises(WrongLayout) as refused:
        app.send_task("tests.support.app.mark", ("x", 1), minsched={"pool": "asr"})
    return str(refused.value)


def test_the_first_node_writes_the_layout_s_number(desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    assert client.get(LAYOUT_KEY) == str(LAYOUT)


def test_an_application_before_the_first_node_uses_this_layout(
    app: Celery, client: redis.Redis
) -> None:
    app.send_task("tests.support.app.mark", ("x", 1), minsched={"pool": "asr"})
    assert not client.exists(LAYOUT_KEY)
    assert make_app(app.conf.broker_url).minsched.views.nodes() == []


@pytest.mark.parametrize("demand", [{"pool": "asr"}, {"src_lang": "zh", "tgt_lang": "en"}])
@pytest.mark.parametrize("due_ts", [0, 10**15])
def test_jobs_before_the_first_node_have_this_layout(
    service: MinimalSchedulerService, client: redis.Redis, demand: dict[str, str], due_ts: int
) -> None:
    request = DispatchRequest(when_full="wait", due_ts=due_ts, **demand)  # type: ignore[arg-type]
    service.dispatch_tasks([(request, ("[", "]"))])
    assert client.exists("scheduler:job:id_seq")
    assert layout_of(client, service.keys) == LAYOUT


def test_on_the_earlier_layout_the_error_names_the_command_migrate(
    app: Celery, client: redis.Redis
) -> None:
    client.set("scheduler:job:id_seq", 17)
    before = client.keys("*")
    error = refusal(app)
    assert "celery -A APP minsched migrate" in error
    assert "cannot run at the same time" in error
    assert client.keys("*") == before


def test_a_later_layout_is_not_changed(app: Celery, desk: Desk, client: redis.Redis) -> None:
    client.set(LAYOUT_KEY, LAYOUT + 1)
    expected = f"has layout {LAYOUT + 1} (see {LAYOUT_KEY}), and this version has layout {LAYOUT}."
    assert expected in refusal(app)
    with pytest.raises(WrongLayout):
        desk.node("n1")
    answer = run_with(app, "nodes")
    assert answer.exit_code == 2
    assert "Install the celery-minsched that the other nodes run" in answer.stderr
    assert client.keys("*") == [LAYOUT_KEY]


def test_a_scrape_of_another_layout_reports_not_up(app: Celery, client: redis.Redis) -> None:
    client.set(LAYOUT_KEY, LAYOUT + 1)
    registry = CollectorRegistry()
    register(app, registry)
    assert "minsched_up 0.0" in generate_latest(registry).decode()


@pytest.mark.parametrize("number", [LAYOUT - 1, LAYOUT + 1])
def test_a_node_on_another_layout_refuses_to_start_and_names_the_cure(
    fleet: Fleet, client: redis.Redis, number: int
) -> None:
    client.set(LAYOUT_KEY, number)
    fleet.start("n1")
    assert fleet.processes["n1"].wait(60) == 1
    assert f"Error: WRONG_LAYOUT: the state in Redis has layout {number} (see" in fleet.log("n1")
    assert client.keys("*") == [LAYOUT_KEY]


def test_a_dispatch_does_not_read_the_layout(app: Celery, desk: Desk, client: redis.Redis) -> None:
    desk.node("n1")
    app.minsched.scheduler  # noqa: B018 - reads the layout once
    client.config_resetstat()
    app.send_task("tests.support.app.mark", ("x", 1), minsched={"pool": "asr"}, ignore_result=True)
    commands = client.info("commandstats")
    gets = commands.get("cmdstat_get", {"calls": 0})["calls"]
    assert gets == 2  # the script reads the fleet's times and an earlier answer
    assert commands["cmdstat_evalsha"]["calls"] == 1


def test_programs_of_the_earlier_layout_continue_while_this_version_is_refused(
    fleet: Fleet, app: Celery, client: redis.Redis, tmp_path: Path
) -> None:
    old = fill(client, nodes=10, sessions=0, jobs=0)
    for node_id in old.nodes:
        client.hset(f"scheduler:node:runtime:{node_id}", "current_jobs", 0)
    before = set(client.keys())
    programs = [OldProgram(fleet.server, "1", f"user-{n}") for n in range(4)]
    for program in programs:
        program.start()
    fleet.start("new")
    while fleet.processes["new"].poll() is None:
        refusal(app)
        assert run_with(app, "check").exit_code == 2
    assert fleet.processes["new"].returncode == 1
    assert "The two versions cannot run at the same time" in fleet.log("new")
    completed_before = [len(program.completed) for program in programs]
    wait_for(
        lambda: all(len(p.completed) > n for p, n in zip(programs, completed_before, strict=True)),
        "each program to continue",
    )
    for program in programs:
        program.stop()

    job_ids = [job_id for program in programs for job_id in program.completed]
    new_keys = {f"scheduler:job:{job_id}" for job_id in job_ids}
    new_keys |= {f"scheduler:session:user-{n}" for n in range(4)}
    assert set(client.keys()) == before | new_keys
    assert len(set(job_ids)) == len(job_ids)
    assert {client.hget(f"scheduler:job:{job_id}", "status") for job_id in job_ids} == {"finished"}
    slot_counts = [
        client.hget(f"scheduler:node:runtime:{node}", "current_jobs") for node in old.nodes
    ]
    assert set(slot_counts) == {"0"}
    assert_untouched(client, old)

    history = tmp_path / "jobs.jsonl"
    assert run_with(app, "migrate", "--apply", "--history", str(history)).exit_code == 0
    assert len(history.read_text().splitlines()) == len(job_ids)
    fleet.start_ready("new")
    assert fleet.send("add", 1, 2).get(20) == 3
    assert Checker(app.minsched.views).check() == []
