"""``celery -A app minsched exporter``: a page for Prometheus to scrape."""

from __future__ import annotations

import signal
import threading

import click

from ..plugin.plugin import plugin_of
from .command import Failure


@click.command("exporter")
@click.option("--port", default=9810, show_default=True, help="Port to listen at.")
@click.option(
    "--address", default="0.0.0.0", show_default=True, help="Address to listen at, as exporters do."
)
@click.pass_context
def exporter(ctx: click.Context, port: int, address: str) -> None:
    """Serve metrics to Prometheus at /metrics until it is stopped.

    Redis is read at each scrape. While it is away minsched_up is 0, and the exporter goes on.
    """
    # Here: every celery command loads this group, a worker too, and needs none of it.
    from prometheus_client import CollectorRegistry, start_http_server

    from ..plugin.metrics import register

    app = ctx.obj.app
    _ = plugin_of(app).settings  # a wrong one is told here, and not at each scrape
    registry = CollectorRegistry()
    register(app, registry)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as exc:
        raise Failure(
            f"cannot listen at {address}:{port}: {exc.strerror}. Choose with --port and --address."
        ) from exc
    stopped = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopped.set())
    click.echo(f"metrics at http://{address}:{server.server_port}/metrics")
    stopped.wait()
    server.shutdown()
    thread.join()
