"""All commands, pages and scrapes answer with unreadable values in Redis, and check names them."""

from __future__ import annotations

import json

import pytest

from celery_minsched.web.handlers import data_or_error
from celery_minsched.web.table_request import FIRST_ROWS

from ..support.commands import run_with
from ..support.scene import Scene, scrape

N1, RUNTIME = "scheduler:node:info:n1", "scheduler:node:runtime:n1"
JOB = "scheduler:job:u1:1"

#: Commands of a producer, and the code of their violation.
BROKEN: dict[str, tuple[list[tuple[object, ...]], str]] = {
    "slots are no number": ([("HSET", N1, "max_jobs", "x")], "node_unreadable"),
    "no slots": ([("HSET", N1, "max_jobs", "0")], "node_unreadable"),
    "load is no JSON": ([("HSET", N1, "load_json", "{")], "node_unreadable"),
    "load is no number": ([("HSET", N1, "load_json", '{"cpu": 1e999}')], "node_unreadable"),
    "load is deep": ([("HSET", N1, "load_json", "[" * 30_000)], "node_unreadable"),
    "load for the order": ([("HSET", N1, "load", "nan")], "node_unreadable"),
    "offers without a tab": ([("HSET", N1, "offers", "asr\n")], "node_unreadable"),
    "too many offers": (
        [("HSET", N1, "offers", "".join(f"p{n}\t\n" for n in range(999)))],
        "node_unreadable",
    ),
    "a heartbeat is no time": ([("HSET", N1, "last_heartbeat_ts", "9" * 400)], "node_unreadable"),
    "a turn is no number": ([("HSET", N1, "turn", "0x1f")], "node_unreadable"),
    "slots in use": ([("HSET", RUNTIME, "current_jobs", "x")], "slot_count"),
    "a record of the wrong type": ([("DEL", N1), ("SET", N1, "x")], "key_of_wrong_type"),
    "an id is not UTF-8": ([("ZADD", "scheduler:nodes", 1, b"\xff")], "member_unreadable"),
    "a key is not UTF-8": ([("HSET", b"scheduler:job:\xff:1", "status", "lost")], "key_unreadable"),
    "a status": ([("HSET", JOB, "status", "resting")], "job_unreadable"),
    "no status": ([("HDEL", JOB, "status")], "job_unreadable"),
    "a payload is no JSON": ([("HSET", JOB, "payload_json", "{")], "job_unreadable"),
    "a payload is no text": (
        [("HSET", JOB, "payload_json", '{"task": "\\ud800"}')],
        "job_unreadable",
    ),
    "a time of a job": ([("HSET", JOB, "started_ts", "soon")], "job_unreadable"),
    "a decision": ([("HSET", JOB, "decision", "1 nan")], "job_unreadable"),
    "a job of the wrong type": ([("DEL", JOB), ("SADD", JOB, "x")], "key_of_wrong_type"),
    "a line's name": ([("HSET", "scheduler:lines", "asr", "asr\t\n")], "line_unreadable"),
    "a line of the wrong type": (
        [("DEL", "scheduler:waiting:asr//"), ("SET", "scheduler:waiting:asr//", "x")],
        "key_of_wrong_type",
    ),
    "a count of jobs": ([("HSET", "scheduler:waiting_counts", "asr", "x")], "waiting_miscounted"),
    "a counter": ([("HSET", "scheduler:counts", "rescues", "x")], "unusable_counter"),
    "times": ([("SET", "scheduler:times", "3 seconds")], "times_unreadable"),
    "pools": ([("DEL", "scheduler:pools"), ("SET", "scheduler:pools", "x")], "key_of_wrong_type"),
    "a message": ([("SET", "minsched.job.u9:99", "x")], "key_of_wrong_type"),
}


@pytest.mark.parametrize("record", BROKEN)
def test_an_unreadable_record_hides_no_other_and_is_named(scene: Scene, record: str) -> None:
    commands, code = BROKEN[record]
    for command in commands:
        scene.raw.execute_command(*command)
    answers = dict(scene.answers())
    assert "\nn2 " in answers["nodes"]
    assert "t-delayed" in answers["jobs"]
    assert 'minsched_node_slots{node="n2"} 1.0' in answers["scrape"]
    assert code in scene.codes()
    if code == "node_unreadable" and "order" not in record and "turn" not in record:
        assert "broken" in answers["nodes"]
        [node] = [n for n in json.loads(answers["nodes --json"]) if n["node_id"] == "n1"]
        assert (node["state"], node["online"], bool(node["broken"])) == ("broken", False, True)
        assert node["broken"].count("max_jobs is ") <= 1
        [row] = [line for line in answers["nodes"].splitlines() if line.startswith("n1 ")]
        assert " d " not in row  # an unreadable time is not the year 1970
    if code == "job_unreadable":
        assert "broken" in answers["jobs"]
        assert "Its record is unreadable" in answers["why t-running"]
        [violation] = [v for v in scene.violations() if v.code == code]
        assert f"is unreadable: {commands[0][2]} is" in violation.sentence


def test_a_new_registration_repairs_the_record_of_a_node(scene: Scene) -> None:
    for field in ("max_jobs", "load_json", "load", "offers", "last_heartbeat_ts", "turn", "state"):
        scene.raw.hset(N1, field, b"\xff")
        assert scene.codes() >= {"node_unreadable"}
        scene.desk.node("n1", 2, ["asr"], ["gpu"])
        scene.desk.beat("n1")
        assert scene.codes() == set(), field


def test_an_unreadable_layout_is_an_error_that_names_the_key(scene: Scene) -> None:
    for value in ("two", b"\xff", "9" * 5000):
        scene.raw.set("scheduler:layout", value)
        scene.app.minsched.__dict__.pop("scheduler", None)
        result = run_with(scene.app, "nodes")
        assert result.exit_code == 2
        assert "scheduler:layout" in result.stderr
        assert "minsched_up 0.0" in scrape(scene.app)
        assert (
            "scheduler:layout"
            in data_or_error("nodes", lambda: scene.app.minsched.views, "", FIRST_ROWS)["error"]
        )


def test_a_repair_skips_keys_of_the_wrong_type(scene: Scene) -> None:
    """The repair mends the other violations."""
    scene.raw.delete("scheduler:pool:mt:free")
    scene.raw.set("scheduler:pool:mt:free", "x")
    scene.raw.hset(RUNTIME, "current_jobs", "7")
    scene.raw.hset("scheduler:node:runtime:n2", "current_jobs", "7")
    result = run_with(scene.app, "check", "--repair")
    assert result.exit_code == 1, result.output
    assert "DEL the key, and run check --repair." in " ".join(result.output.split())
    scene.raw.delete("scheduler:pool:mt:free")
    assert run_with(scene.app, "check", "--repair").exit_code == 0
    assert scene.codes() == set()
