"""Commands that change the state of the scheduler."""

from __future__ import annotations

import json
import re
import threading

import pytest
import redis

from ..support.commands import Run
from ..support.desk import Desk, silence


class TestActing:
    def test_drain_and_undrain_print_the_state_of_the_node(self, busy: Desk, run: Run) -> None:
        for _ in range(2):
            result = run("drain", "gpu-1")
            assert result.stdout == "Node gpu-1 takes no new jobs. It has 2 jobs to finish.\n"
        assert json.loads(run("drain", "gpu-1", "--json").stdout)["state"] == "draining"
        assert run("undrain", "gpu-1").stdout == "Node gpu-1 takes jobs again.\n"
        assert busy.info("gpu-1").state == "full"

    def test_pause_and_resume_print_the_state_of_the_pool(self, busy: Desk, run: Run) -> None:
        output = run("pause", "asr").stdout
        assert output == "Pool asr is paused. Jobs at its nodes: 3. Jobs in line: 4.\n"
        assert re.search(r"^asr +paused", run("pools").stdout, re.MULTILINE)
        assert json.loads(run("resume", "asr", "--json").stdout)["paused"] is False
        output = run("resume", "asr").stdout
        assert output == "Pool asr was not paused. Jobs at its nodes: 3. Jobs in line: 4.\n"

    @pytest.mark.parametrize(
        ("command", "sentence"),
        [
            ("drain gpu1", "there is no node 'gpu1'. Did you mean gpu-1?"),
            ("undrain x", "there is no node 'x'. minsched nodes shows all nodes."),
            ("rescue gpu-11", "there is no node 'gpu-11'. Did you mean gpu-1?"),
            ("pause as", "no node is registered in pool 'as'"),
            ("resume as", "no node is registered in pool 'as'"),
            ("rescue gpu-1", "node 'gpu-1' is alive: its last heartbeat was 0."),
            ("nods", "nodes"),
            ("jobs --status odd", "odd"),
        ],
    )
    def test_an_impossible_action_prints_an_error_sentence(
        self, busy: Desk, run: Run, command: str, sentence: str
    ) -> None:
        busy.beat("gpu-1")
        result = run(*command.split())
        assert (result.exit_code, result.stdout) == (2, "")
        assert sentence in result.stderr
        assert "Traceback" not in result.stderr

    def test_rescue_waits_until_a_live_node_has_rescued_the_jobs(
        self, desk: Desk, client: redis.Redis, run: Run
    ) -> None:
        desk.node("n1", 2)
        runs, parked = desk.dispatch(task_id="a"), desk.dispatch(task_id="b")
        desk.service.claim_job(runs.job_id, "n1")
        client.lpush(desk.service.keys("job_queue", parked.job_id), "{}")
        silence(desk, "n1", 60_000)
        result = run("rescue", "n1")
        assert result.exit_code == 1
        assert " ".join(result.stdout.split()) == (
            "Node n1 is dead. It had 2 jobs. No live node can rescue them now. The next node that "
            "starts will do it."
        )
        desk.node("n2", 2)
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(0.02):
                desk.beat("n2")

        thread = threading.Thread(target=beat)
        thread.start()
        try:
            result = run("rescue", "n1", "--json")
        finally:
            stop.set()
            thread.join()
        report = json.loads(result.stdout)
        assert (result.exit_code, report["rescued"]) == (0, True)
        assert {job["task_id"]: job["status"] for job in report["jobs"]} == {
            "a": "lost",
            "b": "dispatched",
        }
