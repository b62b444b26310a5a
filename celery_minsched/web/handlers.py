"""The scheduler's pages, their data and their actions, as handlers of Flower.

The handlers derive from Flower's handlers, and so they use its authentication, its headers and its
check against requests from other sites. Actions follow the rules of Flower's API: ``--read-only``
disables them, and without authentication they need ``FLOWER_UNAUTHENTICATED_API``.

With that variable, Flower's own API answers pages of all sites (seen in Flower 2.2). These handlers
answer only their own site.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

import prometheus_client
from celery.exceptions import ImproperlyConfigured
from flower.api import BaseApiHandler
from flower.views import BaseHandler
from flower.views.monitor import Metrics as FlowerMetrics
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, StaticFileHandler, authenticated, url

from ..core.errors import SchedulerError, WrongLayout
from ..monitor.models import NODE_DESCRIPTION
from ..monitor.queries import Views
from ..plugin.plugin import MinSched, plugin_of
from .page_data import PageData
from .pages import PAGES, page_data
from .table_request import TableRequest

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"

#: Changes when a static file changes, so that browsers do not use an old copy.
STATIC_VERSION = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))
).hexdigest()[:8]

#: Redis does not answer or has another layout, or the application's settings are wrong.
UNAVAILABLE = (RedisError, OperationalError, ImproperlyConfigured, WrongLayout)

T = TypeVar("T")


async def in_thread(handler: BaseHandler, function: Callable[[], T]) -> T:
    """Run a blocking function in Flower's executor, so that it does not block the event loop."""
    executor = handler.application.executor
    return await asyncio.get_running_loop().run_in_executor(executor, function)


def may_act(handler: BaseHandler) -> bool:
    """True if Flower's API allows this visitor to change something."""
    options = handler.application.options
    is_open = bool(options.basic_auth or options.auth or handler.unauthenticated_api)
    return is_open and not options.read_only


class OwnSite(BaseHandler):
    """A handler that pages of other sites cannot read, and cannot show in a frame.

    In a frame, a visitor could click on an action without seeing it.
    """

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", "frame-ancestors 'self'")
        for name in ("Origin", "Headers", "Methods"):
            self.clear_header(f"Access-Control-Allow-{name}")


def is_from_another_site(request: HTTPServerRequest) -> bool:
    """True if a page of another site sends the request. Programs send neither header."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site != "same-origin"
    origin = request.headers.get("Origin")
    return origin is not None and urlparse(origin).netloc != request.host


class Page(OwnSite):
    """A page without data. Its script fetches the data."""

    @authenticated
    def get(self, page: str) -> None:
        self.render(
            f"/minsched/{page}.html",
            page=page,
            of=self.get_argument("of", "", escape=False),  # the template escapes it
            refresh=self.application.options.auto_refresh,
            may_act=may_act(self),
            description=NODE_DESCRIPTION,
            version=STATIC_VERSION,
        )


class Data(OwnSite):
    """The data of a page as JSON, or status 503 with a sentence in ``error``.

    ``offset``, ``limit``, ``find``, ``sort`` and ``descending=1`` choose the rows of a table.
    """

    @authenticated
    async def get(self, page: str) -> None:
        self.set_header("Cache-Control", "no-store")
        subject = self.get_argument("of", "", escape=False)
        try:
            request = TableRequest.parse(
                lambda name, default: self.get_argument(name, default, escape=False)
            )
        except ValueError as exc:
            raise HTTPError(400, "%s", exc) from exc
        data = await in_thread(
            self, lambda: data_or_error(page, lambda: plugin_of(self.capp).views, subject, request)
        )
        if "error" in data:
            self.set_status(503)
        self.write(data)


def data_or_error(
    page: str, views: Callable[[], Views], subject: str, request: TableRequest
) -> PageData:
    """The data of a page, or ``error`` with a sentence that contains the reason."""
    try:
        return page_data(page, views(), subject, request)
    except UNAVAILABLE as exc:
        return {"error": f"The scheduler does not answer: {exc}"}
    except Exception:
        logger.exception("the page %s cannot read its data", page)
        return {"error": "The scheduler's records are unreadable. Run minsched check."}


#: For each action: the call, and the message after it.
ACTIONS: dict[str, tuple[Callable[[MinSched, str], object], str]] = {
    "drain": (lambda plugin, node: plugin.scheduler.drain_node(node), "Draining {}"),
    "undrain": (lambda plugin, node: plugin.scheduler.drain_node(node, False), "{} takes jobs"),
    "pause": (lambda plugin, pool: plugin.scheduler.pause_pool(pool), "Paused {}"),
    "resume": (lambda plugin, pool: plugin.scheduler.pause_pool(pool, False), "Resumed {}"),
}


class Action(OwnSite, BaseApiHandler):
    """Drains or undrains a node, pauses or resumes a pool.

    Status 404 for an unknown node or pool.
    """

    def prepare(self) -> None:
        if is_from_another_site(self.request):
            raise HTTPError(403, "A page of another site may not do this")
        super().prepare()

    @authenticated
    async def post(self, action: str) -> None:
        if self.application.options.read_only:
            raise HTTPError(403, "Read only mode is enabled")
        subject = self.get_argument("of", "", escape=False)
        act, message = ACTIONS[action]
        try:
            await in_thread(self, lambda: act(plugin_of(self.capp), subject))
        except UNAVAILABLE as exc:
            raise HTTPError(503, "%s", exc) from exc
        except SchedulerError as exc:
            raise HTTPError(404, "%s", exc) from exc
        self.write({"message": message.format(subject)})


class Metrics(OwnSite, FlowerMetrics):
    """Flower's metrics and the scheduler's metrics. Each request reads Redis."""

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        text = await in_thread(self, prometheus_client.generate_latest)
        self.set_header("Content-Type", "text/plain")
        self.write(text)


def _one_of(names: Iterable[str]) -> str:
    return f"({'|'.join(names)})"


ROUTES = [
    url(rf"/minsched/{_one_of(PAGES)}", Page, name="minsched"),
    url(rf"/minsched/data/{_one_of(PAGES)}", Data, name="minsched-data"),
    # Below the path of the pages, because a browser sends its password for this path by itself.
    url(rf"/minsched/do/{_one_of(ACTIONS)}", Action, name="minsched-action"),
    url(r"/minsched/static/(.+)", StaticFileHandler, {"path": str(STATIC)}, name="minsched-static"),
    url(r"/metrics", Metrics),
]
