"""A fleet with a record of each kind, and its faces: commands, pages and the scrape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import redis
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest

from celery_minsched import MinimalSchedulerService, Settings
from celery_minsched.consistency.checker import Checker
from celery_minsched.consistency.violation import Violation
from celery_minsched.monitor.metrics import SchedulerCollector
from celery_minsched.web.handlers import data_or_error
from celery_minsched.web.pages import PAGES
from celery_minsched.web.table_request import TableRequest

from .commands import run_with
from .desk import Desk
from .fleet import make_app
from .server import Server

#: Commands that read. ``check`` is called as a class: the command scans twice, with a pause.
LOOKS = (
    *("nodes", "pools", "jobs", "waiting", "events"),
    *("nodes --json", "pools --json", "jobs --json", "waiting --json", "events --json"),
    *("why t-running", "why t-waiting", "why t-delayed", "why t-running --json"),
)
#: Commands that change Redis, or take too long for each example of a fuzz test.
OTHERS = ("check", "top --once --interval 0.1", "top --once --interval 0.1 --json", "pause asr")

#: Control characters that a terminal obeys, except the end of a line.
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


#: Parts of a page's table.
ASKED = (
    TableRequest(),
    *(TableRequest(sort=order, descending=True) for order in ("state", "slots", "load")),
)

State = list[tuple[bytes, int, bytes]]


def set_scene(desk: Desk) -> None:
    """Make nodes with languages and capabilities, and running, waiting and delayed jobs."""
    desk.node("n1", 2, ["asr"], ["gpu"])
    desk.node("n2", 1, [{"id": "mt", "langs": [["zh", "en"]]}])
    for node_id in ("n1", "n2"):
        desk.beat(node_id, load_json='{"cpu": 12.5}')
    payload = json.dumps({"task": "work.transcribe"})
    running = desk.send(task_id="t-running", session_id="u1", payload_json=payload)
    desk.service.claim_job(running.job_id, "n1")
    desk.send(task_id="t-dispatched", fairness_key="k1")
    desk.park(task_id="t-waiting", fairness_key="k2", payload_json=payload)
    desk.park(capabilities=["gpu"])
    desk.park(pool="nowhere", expires_ts=desk.views.now() + 600_000)
    desk.send(pool=None, src_lang="zh", tgt_lang="en")
    desk.park(pool=None, src_lang="zh", tgt_lang="en")
    desk.send(task_id="t-delayed", due_ts=desk.views.now() + 600_000)


def answers(app: Celery, looks: tuple[str, ...] = LOOKS) -> Iterator[tuple[str, str]]:
    """Each face with its output. A traceback fails the test."""
    for look in looks:
        result = run_with(app, *look.split())
        crashed = result.exception and not isinstance(result.exception, SystemExit)
        assert not crashed, (look, result.exc_info)
        if look.endswith("--json") and result.exit_code != 2:
            json.loads(result.stdout)
        yield look, result.output
    for page in PAGES:
        for request in ASKED:
            subject = {"node": "n1", "why": "t-waiting"}.get(page, "")
            answer = data_or_error(page, lambda: app.minsched.views, subject, request)
            assert "records are unreadable" not in answer.get("error", ""), (page, answer)
            yield f"page {page}", json.dumps(answer)
    yield "scrape", scrape(app)


def scrape(app: Celery) -> str:
    """The text of a scrape. A traceback fails the test."""
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: app.minsched.views))
    return generate_latest(registry).decode()


class Scene:
    """The scene. A test may write to it and reset it."""

    def __init__(self, server: Server) -> None:
        self.raw = redis.Redis(port=server.port)
        self.app = make_app(server.url)
        times = Settings(node_ttl=600, lease=600)  # long, so that no node dies in a slow example
        self.desk = Desk(MinimalSchedulerService(server.client(), times))
        set_scene(self.desk)
        self._state: State = [
            (key, max(self.raw.pttl(key), 0), self.raw.dump(key) or b"")
            for key in self.raw.scan_iter()
        ]

    def reset(self) -> None:
        with self.raw.pipeline(transaction=False) as pipe:
            pipe.flushdb()
            for key, ttl, value in self._state:
                pipe.restore(key, ttl, value)
            pipe.execute()
        self.app.minsched.__dict__.pop("scheduler", None)  # it has read the layout

    def violations(self) -> list[Violation]:
        """The violations of one scan."""
        return list(Checker(self.app.minsched.views).scan_once().values())

    def codes(self) -> set[str]:
        """The codes of the violations."""
        return {violation.code for violation in self.violations()}

    def close(self) -> None:
        self.app.close()
        self.raw.close()

    def answers(self, looks: tuple[str, ...] = LOOKS) -> Iterator[tuple[str, str]]:
        return answers(self.app, looks)
