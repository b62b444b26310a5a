"""Runs Flower with the scheduler's pages.

The module uses only public names of Flower and tornado and patches nothing (seen in Flower 2.2,
tornado 6.6). ``add_handlers`` puts the scheduler's routes before Flower's own routes. A
``template_loader`` holds the templates of both, and adds a tab to Flower's navigation bar.
"""

from __future__ import annotations

import atexit
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from celery import Celery
from flower import command
from flower.app import Flower, rewrite_handler
from flower.urls import settings
from prometheus_client import REGISTRY
from tornado.options import options
from tornado.template import DictLoader

from ..plugin import metrics
from .handlers import ROUTES

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"

TAB = """
<li class="nav-item">
  <a class="nav-link{% if active_tab == 'nodes' %} active{% end %}"
    href="{{ reverse_url('minsched', 'nodes') }}"
    {% if active_tab == 'nodes' %}aria-current="page"{% end %}>Nodes</a>
</li>
"""


def serve(ctx: click.Context, argv: tuple[str, ...]) -> None:
    """Run Flower until it stops. Does the same as ``flower.command.flower``, with more pages."""
    if ctx.parent and ctx.parent.parent:  # ``celery``, then ``minsched``
        command.warn_about_celery_args_used_in_flower_command(ctx.parent, argv)
    command.apply_env_options()
    command.apply_options(sys.argv[0], argv)
    command.extract_settings()
    command.setup_logging()
    app = ctx.obj.app
    flower = build(app, options, settings)
    metrics.register(app, REGISTRY)  # for Flower's /metrics
    atexit.register(flower.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    port = flower.start_http_server()
    if not ctx.obj.quiet:
        command.print_banner(app, "ssl_options" in settings, port)
    with suppress(KeyboardInterrupt, SystemExit):
        flower.start()


def build(app: Celery, options: Any, settings: dict[str, Any]) -> Flower:
    """A Flower with the scheduler's pages behind its authentication and its URL prefix."""
    loader = templates(Path(settings["template_path"]))
    flower = Flower(capp=app, options=options, **{**settings, "template_loader": loader})
    prefix = options.url_prefix
    routes = [rewrite_handler(route, prefix) for route in ROUTES] if prefix else ROUTES
    flower.add_handlers(".*", routes)
    return flower


def templates(directory: Path) -> DictLoader:
    """Flower's templates from ``directory``, and the scheduler's as ``/minsched/<name>``."""
    texts = {path.name: path.read_text() for path in directory.glob("*.html")}
    texts |= {f"/minsched/{path.name}": path.read_text() for path in TEMPLATES.glob("*.html")}
    before, end, after = texts["navbar.html"].partition("</ul>")
    texts["navbar.html"] = before + TAB + end + after
    return DictLoader(texts)
