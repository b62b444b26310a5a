"""``celery minsched events``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import click

from ..monitor.models import Event, place_of
from ..monitor.queries import Views
from .options import json_option, plugin
from .output import local_time, print_json, print_line

#: ms for which one read waits for an event. It must be below the socket timeout of a connection.
_BLOCK_MS = 500


@click.command("events")
@click.option("--follow", "-f", is_flag=True, help="Print new events until Ctrl-C.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Print this many of the latest events.",
)
@json_option
def events_command(follow: bool, limit: int, as_json: bool) -> None:
    """Show the events of nodes, pools and jobs. The oldest event comes first.

    Times are local. Redis keeps about 10,000 events. With --follow, --json prints one object a
    line.
    """
    views = plugin().views
    if as_json and not follow:
        return print_json(views.events(limit=limit))
    with suppress(KeyboardInterrupt):
        for event in _follow(views, limit) if follow else views.events(limit=limit):
            if as_json:
                print_json(event, on_one_line=True)
            else:
                print_line(_line(event))
    return None


def _follow(views: Views, limit: int) -> Iterator[Event]:
    """The latest events, and then each new event. Continues if the stream is created again."""
    last, events = "0-0", views.events(limit=limit)
    while True:
        for event in events:
            yield event
            last = event.event_id
        events = views.events(after=last, block_ms=_BLOCK_MS)
        if not events:
            latest = views.events(limit=1)
            if latest and place_of(latest[0].event_id) < place_of(last):
                events = views.events(after="0-0")


def _line(event: Event) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
    return f"{local_time(event.ts)}  {event.kind:<14} {fields}"
