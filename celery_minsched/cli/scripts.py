"""``celery minsched scripts``: the Lua scripts for clients in other languages."""

from __future__ import annotations

from pathlib import Path

import click

from ..core import lua_source


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def scripts(directory: Path) -> None:
    """Write the Lua scripts to files in DIRECTORY, complete with includes and key names.

    The files are for clients in other languages, see docs/protocol.md. The command needs no
    application and no Redis.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in lua_source.names():
        (directory / f"{name}.lua").write_text(lua_source.source(name), encoding="utf-8")
