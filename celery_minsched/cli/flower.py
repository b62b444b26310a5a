"""``celery minsched flower``: Flower with the scheduler's pages."""

from __future__ import annotations

import click

from .command import Failure


@click.command("flower", context_settings={"ignore_unknown_options": True})
@click.argument("tornado_argv", metavar="[FLOWER OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def flower(context: click.Context, tornado_argv: tuple[str, ...]) -> None:
    """Run Flower with pages for nodes, pools, waiting jobs, events and why.

    All options of celery flower are allowed.
    """
    try:
        from ..web import server
    except ModuleNotFoundError as exc:
        if exc.name not in ("flower", "tornado", "prometheus_client"):
            raise
        raise Failure(
            "Flower is not installed. Install it with: pip install 'celery-minsched[flower]'"
        ) from exc
    server.serve(context, tornado_argv)
