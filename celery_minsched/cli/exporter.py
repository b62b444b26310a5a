"""``celery minsched exporter``: metrics over HTTP for Prometheus."""

from __future__ import annotations

import signal
import threading

import click

from ..plugin.plugin import plugin_of
from .command import Failure


@click.command("exporter")
@click.option("--port", default=9810, show_default=True, help="Listen on this port.")
@click.option("--address", default="0.0.0.0", show_default=True, help="Listen on this address.")
@click.pass_context
def exporter(context: click.Context, port: int, address: str) -> None:
    """Serve metrics for Prometheus at /metrics until SIGINT or SIGTERM.

    Each scrape reads Redis. While Redis does not answer, minsched_up is 0.
    """
    # Imported late, because each celery command and each worker imports this group.
    from prometheus_client import CollectorRegistry, start_http_server

    from ..plugin.metrics import register

    app = context.obj.app
    _ = plugin_of(app).settings  # A wrong setting raises here instead of at each scrape.
    registry = CollectorRegistry()
    register(app, registry)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as exc:
        raise Failure(
            f"cannot listen on {address}:{port}: {exc.strerror}. Set --port and --address."
        ) from exc
    stopped = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stopped.set())
    click.echo(f"metrics at http://{address}:{server.server_port}/metrics")
    stopped.wait()
    server.shutdown()
    thread.join()
