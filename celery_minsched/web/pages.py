"""All pages by name, and the data that a page shows."""

from __future__ import annotations

from collections.abc import Callable

from ..monitor.queries import Views
from .events_page import events_page
from .nodes_page import node_page, nodes_page
from .page_data import PageData, truncate
from .pools_page import pools_page
from .table_request import TableRequest
from .waiting_page import waiting_page
from .why_page import why_page

#: A page takes the views, its subject (a node id or a task id, or "") and the requested rows.
PAGES: dict[str, Callable[[Views, str, TableRequest], PageData]] = {
    "nodes": nodes_page,
    "node": node_page,
    "pools": pools_page,
    "waiting": waiting_page,
    "events": events_page,
    "why": why_page,
}


def page_data(page: str, views: Views, subject: str, request: TableRequest) -> PageData:
    """The data of a page. Cuts each text to at most MAX_TEXT characters."""
    data: PageData = truncate(PAGES[page](views, subject, request))
    return data
