"""Generates parts of the pages from the source: ``make docs-reference``.

A generated part stands between the comments ``<!-- made: NAME -->`` and ``<!-- end -->``. All other
text stays as it is.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from celery_minsched import Settings
from celery_minsched.cli import minsched
from celery_minsched.cli.command import EXIT_CODES, Command
from celery_minsched.core import errors, lua_source
from celery_minsched.core.key_contents import HOLDS
from celery_minsched.core.keys import QUEUES, STATE, Keys

DOCS = Path(__file__).resolve().parent
LUA = DOCS.parent / "celery_minsched/lua"
PAGES = tuple(DOCS / name for name in ("protocol.md", "settings.md", "commands.md", "../README.md"))
#: These scripts come first. The others follow in alphabetical order.
FLOWS = ("register_node", "heartbeat", "dispatch_task", "complete_task")

_PART = re.compile(r"(?<=^<!-- made: )(?P<name>\w+) -->\n.*?(?=^<!-- end -->$)", re.M | re.S)


def rewrite(page: str) -> str:
    """The page with its parts generated again."""
    return _PART.sub(lambda part: f"{part['name']} -->\n\n{MADE[part['name']]()}\n\n", page)


def _scripts() -> str:
    others = [name for name in lua_source.names() if name not in FLOWS]
    return "\n\n".join(_script(name) for name in (*FLOWS, *others))


def _script(name: str) -> str:
    """The header of a script: its description, and its contract unchanged."""
    header, _, _ = (LUA / f"{name}.lua").read_text(encoding="utf-8").partition("\n\n")
    lines = [line for line in header.splitlines() if not line.startswith("-- include: ")]
    description, _, contract = "\n".join(line[3:] for line in lines).partition("\n\n")
    return f"### {name}\n\n{description}\n\n```text\n{contract}\n```"


def _errors() -> str:
    classes = sorted(errors.SchedulerError.__subclasses__(), key=lambda error: error.code)
    lua = "".join(path.read_text(encoding="utf-8") for path in LUA.rglob("*.lua"))
    return _table(
        ("code", "in Python", "means"),
        (
            (f"`{error.code}`", f"`{error.__name__}`", (error.__doc__ or "").partition("\n")[0])
            for error in classes
            if f"'{error.code}'" in lua
        ),
    )


def _keys() -> str:
    return _table(("key", "type", "holds"), (_key(name) for name in (*STATE, *QUEUES)))


def _key(name: str) -> tuple[str, str, str]:
    ids, kind, holds = HOLDS[name]
    key = Keys()(name, *(":".join(f"<{part}>" for part in key_id.split(":")) for key_id in ids))
    return f"`{key}`", kind, holds


def _settings() -> str:
    schema = Settings.model_json_schema()["properties"]
    return _table(
        ("setting", "default", "means"),
        (
            (
                f"`minsched_{name}`",
                f"{field.default:g} s" if field.annotation is float else f"{field.default}",
                ": ".join([field.description or "", *_choices(schema[name])]),
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def _choices(schema: dict[str, Any]) -> list[str]:
    return [", ".join(f"`{choice}`" for choice in schema["enum"])] if "enum" in schema else []


def _exit_codes() -> str:
    rows = ((f"{code:d}", meaning) for code, meaning in EXIT_CODES.items())
    return _table(("exit code", "meaning"), rows)


def _commands() -> str:
    return "\n\n".join(_command(name, minsched.commands[name]) for name in minsched.commands)


def _command(name: str, command: click.Command) -> str:
    """A command's usage, help, options and exit codes."""
    arguments = [
        param.human_readable_name for param in command.params if isinstance(param, click.Argument)
    ]
    options = [param for param in command.params if isinstance(param, click.Option)]
    usage = " ".join(
        ["celery -A APP minsched", name, *(["[OPTIONS]"] if options else []), *arguments]
    )
    parts = [f"### {name}", f"```text\n{usage}\n```", _help(command)]
    if options:
        rows = ((_names(option), _meaning(option)) for option in options)
        parts.append(_table(("option", "meaning"), rows))
    if isinstance(command, Command) and command.exit_codes:
        codes = ((f"{code:d}", meaning) for code, meaning in command.exit_codes.items())
        parts.append(_table(("exit code", "meaning"), codes))
    return "\n\n".join(parts)


def _help(command: click.Command) -> str:
    """The help text. Paragraphs that click does not wrap become blocks."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join(
        f"```text{text[1:]}\n```" if text.startswith("\b") else text for text in paragraphs
    )


def _names(option: click.Option) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _meaning(option: click.Option) -> str:
    default = option.default
    if not option.show_default:
        return option.help or ""
    text = ", ".join(map(str, default)) if isinstance(default, list | tuple) else f"{default}"
    return f"{option.help} Default: {text}."


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    rule = ("---" for _ in head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


MADE: dict[str, Callable[[], str]] = {
    "scripts": _scripts,
    "errors": _errors,
    "keys": _keys,
    "settings": _settings,
    "exit_codes": _exit_codes,
    "commands": _commands,
}


def main() -> None:
    """Write the pages again."""
    for page in PAGES:
        page.write_text(rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
