"""Each dispatch is a span of the caller's trace. Without OpenTelemetry there are no spans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, current_app, group
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from celery_minsched import Backlogged, NoAvailableNode, RegisterNodeRequest
from celery_minsched.plugin.tracing import SPAN

from ..support.fleet import ROOT, Fleet, make_app, wait_for
from ..support.server import Server

TASK = "tests.support.app.where_am_i"


@pytest.fixture(scope="module")
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # a process can set it only once
    CeleryInstrumentor().instrument()
    yield exporter
    CeleryInstrumentor().uninstrument()
    # A provider that is shut down logs a warning for each span of the tests that follow.
    exporter.shutdown()
    exporter.clear()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


@pytest.fixture
def app(server: Server, spans: InMemorySpanExporter) -> Iterator[Celery]:
    app = make_app(server.url)

    @app.task(name=TASK, minsched={"pool": "asr"}, shared=False)
    def where_am_i() -> None: ...

    app.finalize()
    before = current_app._get_current_object()
    app.set_current()  # the instrumentation looks up tasks in the current application
    yield app
    before.set_current()
    app.close()


def register(app: Celery, slots: int = 1) -> None:
    app.minsched.scheduler.register_node(
        RegisterNodeRequest(node_id="n1", max_jobs=slots, pools_json='["asr"]')
    )


def dispatch_spans(spans: InMemorySpanExporter) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == SPAN]


def test_the_span_of_a_dispatch_has_the_node_and_the_reason(app: Celery, spans: Any) -> None:
    register(app)
    result = app.tasks[TASK].delay()
    [span] = dispatch_spans(spans)
    job = app.minsched.find_job(result.id)
    assert span.attributes == {
        "celery.task_name": TASK,
        "messaging.message.id": result.id,
        "minsched.demand": "asr",
        "minsched.job_id": job.job_id,
        "minsched.node": "n1",
        "minsched.pool": "asr",
        "minsched.chosen_by": "least_loaded",
    }


def test_the_span_is_the_child_of_the_caller_and_the_parent_of_the_producer(
    app: Celery, spans: Any
) -> None:
    register(app)
    with trace.get_tracer("caller").start_as_current_span("caller") as caller:
        app.tasks[TASK].delay()
        assert trace.get_current_span() is caller
    [dispatch] = dispatch_spans(spans)
    [producer] = [s for s in spans.get_finished_spans() if s.name == f"apply_async/{TASK}"]
    assert dispatch.parent.span_id == caller.get_span_context().span_id
    assert producer.parent.span_id == dispatch.context.span_id


def test_each_dispatch_of_a_batch_has_a_span(app: Celery, spans: Any) -> None:
    register(app, 2)
    results = app.minsched.dispatch_many([app.tasks[TASK].s()] * 3)
    by_task = {span.attributes["messaging.message.id"]: span for span in dispatch_spans(spans)}
    assert set(by_task) == {result.id for result in results}
    reasons = sorted(span.attributes["minsched.chosen_by"] for span in by_task.values())
    assert reasons == ["busy", "least_loaded", "least_loaded"]
    waiting = next(s for s in by_task.values() if s.attributes["minsched.chosen_by"] == "busy")
    assert "minsched.node" not in waiting.attributes


def test_the_span_of_a_refused_dispatch_has_an_error(app: Celery, spans: Any) -> None:
    register(app)
    app.tasks[TASK].delay()
    spans.clear()
    with pytest.raises(NoAvailableNode):
        app.tasks[TASK].apply_async(minsched={"when_full": "error"})
    [span] = dispatch_spans(spans)
    assert not span.status.is_ok
    assert span.events[0].attributes["exception.type"].endswith("NoAvailableNode")


def test_each_unsent_task_of_a_batch_has_a_span_with_an_error(app: Celery, spans: Any) -> None:
    register(app)
    with pytest.raises(NoAvailableNode):
        app.minsched.dispatch_many(
            [app.tasks[TASK].s().set(minsched={"when_full": "error"}) for _ in range(3)]
        )
    assert [span.status.is_ok for span in dispatch_spans(spans)] == [True, False, False]


@pytest.mark.parametrize(("pool", "late"), [("threads", ""), ("prefork", "1")])
def test_the_span_of_the_consumer_is_in_the_trace_and_has_the_node(
    server: Server, app: Celery, spans: Any, pool: str, late: str
) -> None:
    fleet = Fleet(server, "tests.support.traced_app", environment={"MINSCHED_TEST_LATE": late})
    try:
        fleet.start("traced", "-P", pool, slots=1)
        result = app.tasks[TASK].apply_async()  # waits until the node is online
        result.get(timeout=60)
        consumer = wait_for(lambda: span_in(fleet.log("traced")), "the consumer's span")
    finally:
        fleet.close()
    [dispatch] = dispatch_spans(spans)
    [producer] = [
        span
        for span in spans.get_finished_spans()
        if span.name == f"apply_async/{TASK}"
        # The instrumentation ends the span of a refused task only later.
        and span.attributes["messaging.message.id"] == result.id
    ]
    assert int(consumer["context"]["trace_id"], 16) == dispatch.context.trace_id
    assert int(consumer["parent_id"], 16) == producer.context.span_id
    assert consumer["attributes"]["minsched.node"] == "traced"
    assert consumer["attributes"]["minsched.pool"] == "asr"
    assert consumer["attributes"]["minsched.chosen_by"] == "first_free"
    assert consumer["attributes"]["minsched.waited"] > 0
    assert consumer["attributes"]["minsched.job_id"] == dispatch.attributes["minsched.job_id"]


def span_in(log: str) -> dict[str, Any] | None:
    spans = [json.loads(line) for line in log.splitlines() if line.startswith('{"name"')]
    return next((dict(span) for span in spans if span["name"] == f"run/{TASK}"), None)


def test_the_plugin_works_without_opentelemetry(server: Server) -> None:
    code = f"""
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from tests.support.fleet import make_app
from celery_minsched import RegisterNodeRequest
import node_agent.worker
app = make_app({server.url!r})
scheduler = app.minsched.scheduler
scheduler.register_node(RegisterNodeRequest(node_id="n1", max_jobs=1, pools_json='["asr"]'))
result = app.send_task("t", minsched={{"pool": "asr"}})
print(app.minsched.find_job(result.id).node_id, [n for n in sys.modules if "opentelemetry" in n])
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (process.stdout, process.stderr) == ("n1 []\n", "")


@pytest.mark.parametrize("room", [1, 150])
def test_no_span_of_a_batch_stays_open(app: Celery, spans: Any, room: int) -> None:
    """The batch has sent tasks, a refused task, and unsent tasks after it."""
    app.conf.minsched_max_waiting = room
    tasks = group(app.tasks[TASK].s() for _ in range(350))
    with pytest.raises(Backlogged), app.minsched.batch():
        tasks.apply_async()
    ended = dispatch_spans(spans)
    assert len(ended) == 350
    assert sum(span.status.status_code is trace.StatusCode.ERROR for span in ended) == 350 - room
