"""No text from Redis reaches a terminal as a control sequence. Pages and scrapes are bounded."""

from __future__ import annotations

import json
from io import StringIO

import click
import pytest
from pydantic import BaseModel, ValidationError
from rich.live import Live
from rich.text import Text

from celery_minsched import CompleteTaskRequest, HeartbeatRequest, NodeIdInUse, RegisterNodeRequest
from celery_minsched.cli.command import Failure
from celery_minsched.cli.output import Terminal, table
from celery_minsched.core.models import DispatchRequest
from celery_minsched.monitor.metrics import MOST_EMPTY_POOLS
from celery_minsched.monitor.queries import Views
from celery_minsched.web.page_data import MAX_NAMES, MAX_TEXT
from celery_minsched.web.pages import page_data
from celery_minsched.web.table_request import FIRST_ROWS
from node_agent.cli import _explained

from ..support.desk import Desk
from ..support.scene import CONTROLS, LOOKS, OTHERS, Scene
from ..support.scrape import scrape

#: Sets a terminal's title, clears the terminal, and reverses letters.
ESCAPE = "\x1b]0;owned\x07\x9b2J\u202e"


ENDING = {"job_id": "u:1", "node_id": "n", "status": "failed"}
NODE = {"node_id": "n", "max_jobs": 1, "pools_json": '["a"]'}


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (CompleteTaskRequest, {**ENDING, "reason": ESCAPE}),
        (CompleteTaskRequest, {**ENDING, "claim": ESCAPE}),
        (RegisterNodeRequest, {**NODE, "instance": ESCAPE}),
        (HeartbeatRequest, {"node_id": "n", "instance": ESCAPE}),
        (DispatchRequest, {"pool": "a", "task_id": ESCAPE}),
        (DispatchRequest, {"pool": "a", "token": ESCAPE}),
    ],
)
def test_a_model_accepts_only_printable_text(
    model: type[BaseModel], given: dict[str, object]
) -> None:
    with pytest.raises(ValidationError, match="unprintable"):
        model.model_validate(given)


def test_no_command_page_or_scrape_contains_an_escape_sequence(scene: Scene) -> None:
    raw, event = scene.raw, {"kind": ESCAPE, "node": ESCAPE, ESCAPE: ESCAPE}
    for key in raw.scan_iter("scheduler:job:*:*"):
        payload = json.dumps({"task": ESCAPE})
        fields = ("reason", "task_id", "pool", "where", "caps", "session_id", "from_node", "line")
        raw.hset(key, mapping={"payload_json": payload, **dict.fromkeys(fields, ESCAPE)})
    raw.hset("scheduler:node:info:n1", mapping={"instance": ESCAPE, "offers": f"{ESCAPE}\t\n"})
    raw.hset(f"scheduler:node:info:{ESCAPE}", mapping={"max_jobs": ESCAPE, "state": ESCAPE})
    raw.zadd("scheduler:nodes", {ESCAPE: scene.desk.views.now()})
    raw.hset("scheduler:lines", f"{ESCAPE}/{ESCAPE}/{ESCAPE}", "")
    raw.hset("scheduler:waiting_counts", ESCAPE, "1")
    raw.sadd("scheduler:pools", ESCAPE)
    raw.xadd("scheduler:events", event)
    faces = 0
    for face, text in scene.answers((*LOOKS, *OTHERS, f"why {ESCAPE}", f"drain {ESCAPE}")):
        assert not CONTROLS.search(text), face
        assert "\u202e" not in text, face
        faces += "owned" in text
    assert faces > 15


def test_a_live_view_writes_only_its_own_escape_sequences() -> None:
    written = StringIO()
    terminal = Terminal(file=written, force_terminal=True, width=80, highlight=False)
    nodes = table("NODE", "STATE")
    nodes.add_row(ESCAPE, Text(ESCAPE))
    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        live.update(nodes, refresh=True)
    assert "owned" in written.getvalue()
    assert "\x1b]" not in written.getvalue()
    assert "\x9b" not in written.getvalue()
    assert "\x1b[?1049h" in written.getvalue()  # of the live view


def test_an_error_is_printed_without_escape_sequences() -> None:
    assert not CONTROLS.search(Failure(f"Redis says {ESCAPE}").format_message())
    in_use = NodeIdInUse(node_id="n1", holder=ESCAPE, age_ms=1)
    with pytest.raises(click.ClickException) as raised, _explained():
        raise in_use
    assert not CONTROLS.search(raised.value.format_message())


def test_wrong_names_of_pools_have_a_bounded_number_of_series(desk: Desk) -> None:
    desk.node("n1", 1)
    desk.send()
    desk.park()
    usual, number = len(scrape(desk.views).text.splitlines()), 20 * MOST_EMPTY_POOLS
    for start in range(0, number, 100):
        desk.send_many([{"pool": f"typo{n}"} for n in range(start, start + 100)])
    desk.send_many([{"pool": "typo7"}])
    scraped = scrape(desk.views)
    labels = scraped.of("minsched_pool_waiting_jobs")
    assert len(labels) == MOST_EMPTY_POOLS + 2
    assert {"pool": "typo7"} in labels
    waiting = scraped.value("minsched_pool_waiting_jobs", pool="(other)")
    assert waiting == number - MOST_EMPTY_POOLS
    assert len(scraped.text.splitlines()) < usual + 50 * MOST_EMPTY_POOLS


def test_a_page_sends_bounded_lists_and_texts(desk: Desk) -> None:
    langs = [[f"l{n}", "en"] for n in range(60)]
    desk.node("n1", 1, ["asr", {"id": "mt", "langs": langs}], [f"cap{n}" for n in range(60)])
    client, views = desk.service.redis, desk.views
    client.xadd("scheduler:events", {f"f{n}": "x" * 100_000 for n in range(100)})

    def ask(page: str, of: str = "") -> str:
        return json.dumps(page_data(page, Views(client, views.keys), of, FIRST_ROWS))

    [row] = json.loads(ask("nodes"))["tables"]["nodes"]
    assert len(row["description"]["capabilities"]) == MAX_NAMES + 1
    assert row["description"]["capabilities"][-1] == "… and 40 more"
    assert "… and 40 more" in json.loads(ask("node", "n1"))["texts"]["capabilities"]
    pools = json.loads(ask("pools"))["tables"]["pools"]
    assert [len(pool["langs"]) for pool in pools] == [0, MAX_NAMES + 1]
    assert len(ask("events")) < 25 * (MAX_TEXT + 100)
