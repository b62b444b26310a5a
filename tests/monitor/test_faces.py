"""Commands, pages, metrics and alerts show the same state of a node that takes no jobs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from celery_minsched.monitor.explain import why
from celery_minsched.monitor.models import NODE_STATES
from celery_minsched.web.nodes_page import STATE_ORDER, nodes_page

from ..support.commands import run_with
from ..support.desk import Desk, silence
from ..support.fixtures import fast_fleet
from ..support.fleet import ROOT, Fleet, make_app, wait_for
from ..support.scrape import scrape
from ..support.server import Server

#: The states of nodes with readable records.
SOUND_STATES = [word for word in NODE_STATES if word != "broken"]


def run_one(desk: Desk, node_id: str, **demand: Any) -> str:
    """The id of a job that runs at the node."""
    job = desk.dispatch(preferred_node=node_id, **demand)
    desk.service.claim_job(job.job_id, node_id)
    return job.job_id


def every_state(desk: Desk) -> dict[str, str]:
    """A node in each state, with the state as its id."""
    for node_id in ("full", "free", "draining", "stopping", "stuck", "dead", "left"):
        desk.node(node_id, 2)
    desk.node("starting", 2, online=False)
    for node_id in ("full", "full", "draining", "stopping", "stuck", "dead"):
        run_one(desk, node_id)
    desk.service.drain_node("draining")
    desk.beat("stopping", state="stopping")
    desk.beat("stuck", state="stuck")
    desk.beat("left", online=False, jobs=[])
    silence(desk, "dead", 3000)
    desk.service.declare_dead("dead")
    return {node.node_id: node.state for node in desk.views.nodes()}


def test_a_node_has_one_state(desk: Desk) -> None:
    assert every_state(desk) == {word: word for word in SOUND_STATES}
    views = {node.node_id: node for node in desk.views.nodes()}
    assert {word for word in views if views[word].takes_jobs} == {"free", "full"}
    assert {word for word in views if not views[word].heartbeats_arriving} == {"dead", "left"}


def test_commands_show_the_state_and_its_meaning(desk: Desk, server: Server) -> None:
    run = partial(run_with, make_app(server.url))
    every_state(desk)
    shown = dict(line.split()[:2] for line in run("nodes").stdout.splitlines()[1:])
    assert shown == {word: word for word in SOUND_STATES}
    states = {node["node_id"]: node["state"] for node in json.loads(run("nodes", "--json").stdout)}
    assert states == shown
    counted = ", ".join(f"1 {word}" for word in SOUND_STATES)
    fleet = " ".join(run("top", "--once", "--interval", "0.1").stdout.split())
    assert f"8 nodes ({counted}), 2/4 slots" in fleet
    assert "asr   open      3/8    2/4" in run("pools").stdout
    for state in ("stopping", "stuck"):  # the commands above may take longer than the TTL
        desk.beat(state, state=state)
    assert run("rescue", "stopping").stderr.endswith(
        "ago. It finishes 1 job and leaves. Jobs that have not begun are placed again. To end the "
        "node sooner, kill its process.\n"
    )
    assert "It has 1 job. Jobs that have not begun" in run("rescue", "stuck").stderr
    for node_id, sentence in {"left": "has left", "dead": "is dead"}.items():
        silence(desk, node_id, 3000)
        output = run("rescue", node_id, "--timeout", "0").stdout
        assert output.startswith(f"Node {node_id} {sentence}."), output


def test_the_last_node_is_dead_when_its_heartbeat_is_too_old(desk: Desk) -> None:
    """No other node sends heartbeats, so no script finds the dead node."""
    desk.node("n1", 2)
    silence(desk, "n1", 60_000)
    node, [pool] = desk.info("n1"), desk.views.pools()
    assert (node.state, node.online) == ("dead", False)
    assert (pool.online, pool.slots) == (0, 0)


@pytest.mark.parametrize("state", ["stopping", "draining", "stuck"])
def test_the_load_does_not_count_a_full_node_that_takes_no_jobs(desk: Desk, state: str) -> None:
    desk.node("n1", 2)
    desk.node("n2", 2)
    jobs = [run_one(desk, "n1"), run_one(desk, "n1")]
    assert desk.views.pool("asr").load == 0.5
    if state == "draining":
        desk.service.drain_node("n1")
    else:
        desk.beat("n1", state=state, jobs=jobs)
    pool = desk.views.pool("asr")
    assert (pool.taken, pool.slots, pool.leaving, pool.load) == (0, 2, 2, 0)
    scraped = scrape(desk.views)
    assert scraped.value("minsched_pool_load_ratio", pool="asr") == 0
    assert scraped.value("minsched_pool_slots_taken", pool="asr") == 0
    assert scraped.value("minsched_pool_leaving_jobs", pool="asr") == 2


fleet = fast_fleet


def test_a_full_node_is_stopping_after_sigterm_until_its_jobs_have_ended(
    fleet: Fleet, client: redis.Redis
) -> None:
    """After its jobs have ended, the node's state is left. The load of the pool does not rise."""
    for node_id in ("n1", "n2"):
        fleet.start(node_id, "-P", "threads")
    fleet.wait_online("n1", "n2")
    for name in ("a", "b"):
        fleet.send("hold", name, minsched={"preferred_node": "n1"})
        wait_for(lambda name=name: client.exists(f"test:began:{name}"), name)
    loads = {fleet.views.pool("asr").load}
    assert loads == {0.5}
    fleet.kill("n1", signal.SIGTERM)

    def state() -> str:
        loads.add(fleet.views.pool("asr").load)
        node = fleet.node("n1")
        return node.state if node else ""

    wait_for(lambda: state() == "stopping", "n1 to be stopping")
    later = fleet.views.now() + 3000  # longer than the TTL of a node
    wait_for(lambda: (node := fleet.node("n1")) and node.last_heartbeat_ts > later)
    assert state() == "stopping"
    result = run_with(fleet.app, "rescue", "n1")
    assert (result.exit_code, "It finishes 2 jobs and leaves." in result.stderr) == (2, True)
    for name in ("a", "b"):
        client.lpush(f"test:release:{name}", "go")
    assert fleet.processes["n1"].wait(30) == 0
    assert (state(), loads) == ("left", {0.5, 0.0})
    events = [e.kind for e in fleet.views.events() if e.fields.get("node") == "n1"]
    assert events == ["node_joined", "node_stopping", "node_left"]
    fleet.destroy("n2")
    wait_for(lambda: (node := fleet.node("n2")) and node.state == "dead", "n2 to be dead")


def test_pages_and_styles_have_each_state_and_event(desk: Desk) -> None:
    rows = nodes_page(desk.views, "")["tables"]["nodes"] if every_state(desk) else []
    assert {row["state"] for row in rows} == set(SOUND_STATES)
    assert nodes_page(desk.views, "")["texts"]["dead"] == "2"  # the stuck node, too
    static = ROOT / "celery_minsched" / "web" / "static"
    assert set(STATE_ORDER) == set(NODE_STATES)
    styled = re.findall(r'data-state="(\w+)"', (static / "minsched.css").read_text())
    kinds = {"node_joined", "node_stopping", "node_stuck", "node_recovered", "node_died"}
    assert {*NODE_STATES, *kinds} - {"left"} <= set(styled)


def test_metrics_show_the_state_and_a_stopping_node_is_up(desk: Desk) -> None:
    every_state(desk)
    scraped = scrape(desk.views)
    for word in SOUND_STATES:
        assert scraped.value("minsched_nodes", state=word) == 1
        if word not in ("dead", "left"):
            assert scraped.value("minsched_node_state", node=word, state=word) == 1
            assert scraped.value("minsched_node_up", node=word) == 1
    assert scraped.value("minsched_node_up", node="dead") == 0
    assert {labels["node"] for labels in scraped.of("minsched_node_up")} == {*SOUND_STATES} - {
        "left"
    }


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_alerts_fire_for_dead_and_stuck_nodes_only(desk: Desk, tmp_path: Path) -> None:
    every_state(desk)
    scraped = scrape(desk.views)
    series = [
        {
            "series": re.sub(r" \S+$", "", line),
            "values": f"{line.rpartition(' ')[2]}+0x30",
        }
        for line in scraped.text.splitlines()
        if line.startswith(("minsched_node", "minsched_pool"))
    ]
    alerts = {"MinschedNodeDown": ["dead"], "MinschedNodeStuck": ["stuck"]}
    rule_tests = {
        "rule_files": [str(ROOT / "deploy" / "prometheus-alerts.yml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                        "eval_time": "20m",
                        "exp_samples": [{"value": len(nodes)}],
                    }
                    for name, nodes in alerts.items()
                ]
                + [
                    {
                        "expr": 'ALERTS{alertstate="firing",node!="",node!~"dead|stuck"}',
                        "eval_time": "20m",
                    },
                    {"expr": 'ALERTS{alertstate="firing",pool!=""}', "eval_time": "20m"},
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(rule_tests))
    promtool = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )
    assert promtool.returncode == 0, promtool.stdout + promtool.stderr


def test_why_explains_the_effect_of_a_node_s_state_on_its_job(desk: Desk) -> None:
    desk.node("n1", 3)
    run_one(desk, "n1", task_id="running")
    desk.dispatch(preferred_node="n1", task_id="queued")

    def last_sentence(task_id: str) -> str:
        return why(desk.views, task_id).story[-1]

    desk.beat("n1", state="stopping")
    assert last_sentence("running") == "The node is stopping. It finishes the job and leaves."
    assert last_sentence("queued").startswith("The node is stopping. It hands the job back")
    desk.beat("n1", state="stuck")
    assert (
        last_sentence("running")
        == "The node is stuck. The job stays there until the node recovers or ends."
    )
    assert last_sentence("queued") == "The node is stuck. The job goes to another node."
    desk.park(task_id="waiting")
    assert last_sentence("waiting") == "The only node that can run it (n1) is stuck."
    silence(desk, "n1", 60_000)
    assert last_sentence("running") == "The node is dead. A live node rescues the job."
