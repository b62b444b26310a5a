"""Builds the text of each Lua script from its files in ``lua/``.

``-- include: node`` is replaced by the text of ``lua/include/node.lua``, once in a script. Lua and
Redis set limits to a script, and Redis makes all functions of a script anew at each call:

- Functions that the script does not call are left out. A script that often ends early names the
  includes that it needs later below the place where it ends.
- A number with a name in capitals stands in place of its name. Lua allows 200 local names.
- ``key.node_jobs(node_id)`` becomes ``(KEYS[1] .. 'node:jobs:' .. (node_id))``.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

from .keys import QUEUES, STATE

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
#: A function of an include, on one line or up to the next "end" that is not indented.
_FUNCTION = re.compile(r"^local function (\w+)\((?:[^\n]* end$|.*?^end$)", re.MULTILINE | re.DOTALL)
#: A number with a name, and the comment behind it.
_NUMBER = re.compile(r"^local ([A-Z_]+) = (\d+) *(?:--.*)?\n", re.MULTILINE)
#: A key with its ids. No id contains parentheses.
_KEY = re.compile(r"\bkey\.(\w+)\(([^()]*)\)")


@cache
def names() -> tuple[str, ...]:
    """The names of all scripts."""
    entries = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".lua") for name in entries if name.endswith(".lua")))


@cache
def source(name: str) -> str:
    """The text of script ``name``, as Redis gets it."""
    return spell_keys(_with_numbers(_without_unused(_joined(name, set()))))


@cache
def sha(name: str) -> str:
    """The SHA1 by which Redis knows script ``name``."""
    return hashlib.sha1(source(name).encode()).hexdigest()


_FOLDER = files("celery_minsched") / "lua"


def _read(path: str) -> str:
    return (_FOLDER / f"{path}.lua").read_text(encoding="utf-8")


def _joined(path: str, seen: set[str]) -> str:
    """The text of a file with its includes, or nothing if the file is in ``seen``."""
    if path in seen:
        return ""
    seen.add(path)
    return _INCLUDE.sub(lambda include: _joined(f"include/{include[1]}", seen), _read(path))


def _code(text: str) -> str:
    return re.sub(r"--.*", "", text)


def _without_unused(text: str) -> str:
    """``text`` without the functions that it does not call; a call is below what it calls."""
    for function in reversed(list(_FUNCTION.finditer(text))):
        if not re.search(rf"\b{function[1]}\b", _code(text[function.end() :])):
            text = text[: function.start()] + text[function.end() :]
    return text


def _with_numbers(text: str) -> str:
    """``text`` with its numbers in place of their names."""
    numbers = dict(_NUMBER.findall(text))
    if not numbers:
        return text
    return re.sub(
        rf"\b({'|'.join(numbers)})\b", lambda name: numbers[name[1]], _NUMBER.sub("", text)
    )


def spell_keys(text: str) -> str:
    """``text`` with its keys spelled out. A function for each key would cost a fifth of a script's
    time. Raises ``ValueError`` for an unknown key and a wrong number of ids.
    """
    spelled = _KEY.sub(_spell, text)
    if left := re.search(r"\bkey\..*", _code(spelled)):
        raise ValueError(f"not a key with its ids: {left[0]}")
    return spelled


def _spell(key: re.Match[str]) -> str:
    name, ids = key[1], [one.strip() for one in key[2].split(",") if one.strip()]
    template = STATE.get(name, QUEUES.get(name))
    if template is None:
        raise ValueError(f"unknown key: {key[0]}")
    first, *others = template.split("{}")
    if len(ids) != len(others):
        raise ValueError(f"{len(others)} ids expected: {key[0]}")
    parts = ["KEYS[1]" if name in STATE else "KEYS[2]", f"'{first}'"]
    for one, piece in zip(ids, others, strict=True):
        parts += [f"({one})", f"'{piece}'"]
    return f"({' .. '.join(part for part in parts if part != chr(39) * 2)})"
