"""Our pages, their data and their actions, as handlers of Flower's kind.

They derive from Flower's handlers and so have its authentication, its headers and its check of
requests from other sites; what changes something keeps the rules of Flower's API: never with
``--read-only``, and without authentication only where ``FLOWER_UNAUTHENTICATED_API`` is set.

With that variable Flower's own API answers the pages of every site (seen in Flower 2.2). These
handlers do not.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

import prometheus_client
from celery.exceptions import ImproperlyConfigured
from flower.api import BaseApiHandler
from flower.views import BaseHandler
from flower.views.monitor import Metrics as FlowersMetrics
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, StaticFileHandler, authenticated, url

from ..core.errors import SchedulerError, WrongLayout
from ..monitor.queries import Views
from ..plugin.plugin import MinSched, plugin_of
from .answers import ANSWERS, Answer, answer_of
from .paging import Asked

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"

#: Changes when a static file changes, so that browsers do not use an old copy.
STATIC_VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))
).hexdigest()[:8]

#: Redis is away or has another layout, or the application's settings are wrong.
UNAVAILABLE = (RedisError, OperationalError, ImproperlyConfigured, WrongLayout)

T = TypeVar("T")


async def in_thread(handler: BaseHandler, function: Callable[[], T]) -> T:
    """Run what waits for Redis in Flower's executor, so that its loop does not wait."""
    executor = handler.application.executor
    return await asyncio.get_running_loop().run_in_executor(executor, function)


def may_act(handler: BaseHandler) -> bool:
    """Would Flower's API let this visitor change something?"""
    options = handler.application.options
    is_open = bool(options.basic_auth or options.auth or handler.unauthenticated_api)
    return is_open and not options.read_only


class OwnSite(BaseHandler):
    """A handler whose answers a browser gives to no page of another site, and shows in no frame of
    one: a visitor could click on an action without seeing it.
    """

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", "frame-ancestors 'self'")
        for what in ("Origin", "Headers", "Methods"):
            self.clear_header(f"Access-Control-Allow-{what}")


def is_of_another_site(request: HTTPServerRequest) -> bool:
    """Does a page of another site make the request? A program that is no browser does not say."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site != "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlparse(origin).netloc != request.host


class Page(OwnSite):
    """A page; its script fetches what it shows."""

    @authenticated
    def get(self, page: str) -> None:
        self.render(
            f"/minsched/{page}.html",
            page=page,
            of=self.get_argument("of", "", escape=False),  # templates escape
            refresh=self.application.options.auto_refresh,
            may_act=may_act(self),
            version=STATIC_VERSION,
        )


class Data(OwnSite):
    """What a page shows now, as JSON; 503 and a sentence where that cannot be read.

    ``offset``, ``limit``, ``find``, ``sort`` and ``descending=1`` choose rows of a page's table.
    """

    @authenticated
    async def get(self, page: str) -> None:
        self.set_header("Cache-Control", "no-store")
        of = self.get_argument("of", "", escape=False)
        try:
            asked = Asked.of(lambda name, usual: self.get_argument(name, usual, escape=False))
        except ValueError as exc:
            raise HTTPError(400, "%s", exc) from exc
        answer = await in_thread(
            self, lambda: _answer(page, lambda: plugin_of(self.capp).views, of, asked)
        )
        if "error" in answer:
            self.set_status(503)
        self.write(answer)


def _answer(page: str, views: Callable[[], Views], of: str, asked: Asked) -> Answer:
    """What the page shows, or ``error``: a sentence that says why it shows nothing."""
    try:
        return answer_of(page, views(), of, asked)
    except UNAVAILABLE as exc:
        return {"error": f"The scheduler cannot be asked: {exc}"}
    except Exception:
        logger.exception("the page %s has no answer", page)
        return {"error": "The scheduler's records cannot be read. Run minsched check."}


#: What an action does to the scheduler, and how that is told.
ACTIONS: dict[str, tuple[Callable[[MinSched, str], object], str]] = {
    "drain": (lambda plugin, node: plugin.scheduler.drain_node(node), "Draining {}"),
    "undrain": (lambda plugin, node: plugin.scheduler.drain_node(node, False), "{} takes jobs"),
    "pause": (lambda plugin, pool: plugin.scheduler.pause_pool(pool), "Paused {}"),
    "resume": (lambda plugin, pool: plugin.scheduler.pause_pool(pool, False), "Resumed {}"),
}


class Action(OwnSite, BaseApiHandler):
    """Drain a node or pause a pool, or take that back; 404 for one that is not there."""

    def prepare(self) -> None:
        if is_of_another_site(self.request):
            raise HTTPError(403, "A page of another site may not do this")
        super().prepare()

    @authenticated
    async def post(self, action: str) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")
        of = self.get_argument("of", "", escape=False)
        act, told = ACTIONS[action]
        try:
            await in_thread(self, lambda: act(plugin_of(self.capp), of))
        except UNAVAILABLE as exc:
            raise HTTPError(503, "%s", exc) from exc
        except SchedulerError as exc:
            raise HTTPError(404, "%s", exc) from exc
        self.write({"message": told.format(of)})


class Metrics(OwnSite, FlowersMetrics):
    """Flower's metrics and ours. Ours are read from Redis when they are asked for."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        text = await in_thread(self, prometheus_client.generate_latest)
        self.set_header("Content-Type", "text/plain")
        self.write(text)


def _one_of(names: Any) -> str:
    return f"({'|'.join(names)})"


ROUTES = [
    url(rf"/minsched/{_one_of(ANSWERS)}", Page, name="minsched"),
    url(rf"/minsched/data/{_one_of(ANSWERS)}", Data, name="minsched-data"),
    # Below the pages: there a browser sends the password unasked, and Flower's API does not ask.
    url(rf"/minsched/do/{_one_of(ACTIONS)}", Action, name="minsched-action"),
    url(r"/minsched/static/(.+)", StaticFileHandler, {"path": str(STATIC)}, name="minsched-static"),
    url(r"/metrics", Metrics),
]
