"""Fixtures: an application, its commands, and full nodes with waiting jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from celery import Celery

from ..support.commands import TASK, Run, run_with
from ..support.desk import Desk
from ..support.fleet import make_app
from ..support.server import Server


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = make_app(server.url)
    yield app
    app.close()


@pytest.fixture
def run(app: Celery) -> Run:
    return lambda *args, **options: run_with(app, *args, **options)


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """Full nodes with long names, and jobs that wait for a slot, for a capability or for a time."""
    desk.node("gpu-1", 2, ["asr"], ["whisper-large-v3", "diarization", "punctuation"])
    desk.node("a-node-with-a-name-that-is-as-long-as-names-of-pods-get-7d9f8b6c5-x2x4z", 1)
    desk.node("cpu-1", 1, [{"id": "mt", "langs": [["zh", "en"], ["en", "zh"], ["de", "en"]]}])
    desk.beat("gpu-1", load_json='{"cpu": 12.5, "gpu": 97, "mem": 40}')
    for n in range(3):
        payload = json.dumps({"task": "speech.recognition.tasks.transcribe"})
        desk.dispatch(session_id=f"u{n}", task_id=TASK.format(n), payload_json=payload)
    for n in range(3, 6):
        desk.park(session_id="u3", task_id=TASK.format(n))
    desk.park(task_id=TASK.format(6), capabilities=["nobody-has-this"])
    due = desk.views.now() + 3_600_000
    desk.send(task_id=TASK.format(7), due_ts=due)
    return desk
