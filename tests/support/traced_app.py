"""The application of tests/support/app.py with tracing. A span is a line of JSON in the node's log.

The application is instrumented at once, for ``-P threads``. With MINSCHED_TEST_LATE it is
instrumented in each process of the pool, as opentelemetry-instrumentation-celery requires for
prefork.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from celery.signals import worker_process_init
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from .app import app

__all__ = ["app"]


def instrument(**_: Any) -> None:
    provider = TracerProvider()
    exporter = ConsoleSpanExporter(
        out=sys.__stdout__,  # type: ignore[arg-type]
        formatter=lambda span: span.to_json(indent=None) + "\n",
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


if os.environ.get("MINSCHED_TEST_LATE"):
    worker_process_init.connect(instrument, weak=False)
else:
    instrument()
