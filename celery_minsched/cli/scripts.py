"""``celery minsched scripts``: what a client in another language sends to Redis."""

from __future__ import annotations

from pathlib import Path

import click

from ..core import lua_source


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def scripts(directory: Path) -> None:
    """Write each Lua script as a file into DIRECTORY, with its includes and its keys spelled out.

    For clients in other languages, see docs/protocol.md. Needs no application and no Redis.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in lua_source.names():
        (directory / f"{name}.lua").write_text(lua_source.source(name), encoding="utf-8")
