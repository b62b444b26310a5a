"""Builds the text of each Lua script from its files in ``lua/``.

- ``-- include: node`` becomes the text of ``lua/include/node.lua``, once in a script.
- Functions that the script does not call are left out. Redis creates all functions of a script at
  each call. So a script that often ends early has its other includes below that point. The
  functions that it calls only there stand there too, whatever include they are from.
- A name in capitals becomes its number. Lua allows 200 local names in a script.
- ``key.node_jobs(node_id)`` becomes ``(KEYS[1] .. 'node:jobs:' .. (node_id))``.
- ``ARGV.node_id`` becomes ``ARGV[2]``, if the header of the script has ``ARGV[2] node_id``.

A script may take items after its single arguments. The header has ``ARGV[3...] job_ids``, or
``ARGV[2...] jobs (demand, payload_json)`` if each item has several fields. In the script,
``#ARGV.jobs`` is the number of items, ``for demand, payload_json in ARGV.jobs do`` is a loop over
them (``in ARGV.jobs after 3`` leaves out the first three), and ``{ARGV.job_ids}`` is a table of
them, if they have no fields.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from .keys import QUEUES, STATE

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
#: A function of an include, on one line or up to the next "end" that is not indented.
_FUNCTION = re.compile(r"^local function (\w+)\((?:[^\n]* end$|.*?^end$)", re.MULTILINE | re.DOTALL)
#: Where the script has an include below its first line of code.
_LATER = "-- later\n"
#: A function, or a table or a number with a name.
_DEFINITION = re.compile(
    rf"{_FUNCTION.pattern}"
    r"|^local (?P<names>[\w, ]+) = (?:[\w{}, ]+|\{[^}]*\}) *(?:--[^\n]*)?$",
    re.MULTILINE | re.DOTALL,
)
#: A number with a name, and the comment behind it.
_NUMBER = re.compile(r"^local ([A-Z_]+) = (\d+) *(?:--.*)?\n", re.MULTILINE)
#: A named argument in a header: its number, dots if it is the first of many, its name, its fields.
_STATED = re.compile(r"ARGV\[(\d+)(\.\.\.)?\] (\w+)(?: \(([\w, ]+)\))?")
#: The ways to use an argument in a script: a loop over items, their number, a table, one value.
_LOOP = re.compile(r"\bfor ([\w, ]+) in ARGV\.(\w+)(?: after (.+))? do\b")
_COUNT = re.compile(r"#ARGV\.(\w+)")
_TABLE = re.compile(r"\{ARGV\.(\w+)\}")
_VALUE = re.compile(r"\bARGV\.(\w+)")
#: A key with its ids. No id contains parentheses.
_KEY = re.compile(r"\bkey\.(\w+)\(([^()]*)\)")


@cache
def names() -> tuple[str, ...]:
    """The names of all scripts."""
    entries = (entry.name for entry in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".lua") for name in entries if name.endswith(".lua")))


@dataclass(frozen=True)
class Arguments:
    """The arguments of a script, as its header states them."""

    #: The names of ``ARGV[1]``, ``ARGV[2]`` and so on.
    single: tuple[str, ...]
    #: The name of the items that follow, "" for none.
    items: str = ""
    #: The names of the fields of each item.
    fields: tuple[str, ...] = ()


@cache
def arguments(name: str) -> Arguments:
    """The arguments of script ``name``. Raises ``ValueError`` if they are not numbered in order."""
    header, _, _ = _read(name).partition("\n\n")
    matches = _STATED.findall(header)
    if [int(number) for number, *_ in matches] != list(range(1, len(matches) + 1)):
        raise ValueError(f"{name}.lua: the arguments in the header are not numbered in order")
    if not matches[-1][1]:
        return Arguments(tuple(argument for _, _, argument, _ in matches))
    *single, (_, _, items, fields) = matches
    return Arguments(
        tuple(argument for _, _, argument, _ in single),
        items,
        tuple(fields.split(", ")) if fields else (items,),
    )


@cache
def source(name: str) -> str:
    """The text of script ``name``, as Redis gets it. Raises ``ValueError`` for an argument that
    the header does not name, an argument by its number, and a key that is not in :mod:`.keys`.
    """
    text = _with_numbers(_sunk(_without_unused(_joined(name, set()))))
    return spell_keys(number_arguments(text, arguments(name)))


def numbers(include: str, name: str) -> tuple[int, ...]:
    """The numbers that an include gives to a name in capitals: one number, or a list."""
    [digits] = re.findall(
        rf"^local {name} = {{?([\d, ]+)", _read(f"include/{include}"), re.MULTILINE
    )
    return tuple(map(int, digits.split(",")))


def number(include: str, name: str) -> int:
    """The one number that an include gives to a name."""
    [only] = numbers(include, name)
    return only


@cache
def sha(name: str) -> str:
    """The SHA1 digest of script ``name``."""
    return hashlib.sha1(source(name).encode()).hexdigest()


_FOLDER = files("celery_minsched") / "lua"


def _read(path: str) -> str:
    return (_FOLDER / f"{path}.lua").read_text(encoding="utf-8")


def _joined(path: str, seen: set[str]) -> str:
    """The text of a file with its includes, or nothing if the file is in ``seen``."""
    if path in seen:
        return ""
    seen.add(path)
    text = _read(path)
    first_code = re.search(r"^(?!--)(?=.*\S)", text, re.MULTILINE)

    def included(include: re.Match[str]) -> str:
        is_later = first_code is not None and include.start() > first_code.start()
        return _LATER * is_later + _joined(f"include/{include[1]}", seen)

    return _INCLUDE.sub(included, text)


def _sunk(text: str) -> str:
    """``text`` with each definition below the last ``_LATER`` above which nothing needs it."""
    above, later, below = text.partition(_LATER)
    if not later:
        return text
    for definition in reversed(list(_DEFINITION.finditer(above))):
        names = definition[1] or definition["names"].replace(", ", "|")
        if not re.search(rf"\b(?:{names})\b", _code(above[definition.end() :])):
            above = above[: definition.start()] + above[definition.end() :]
            below = f"{definition[0]}\n{below}"
    # Lua allows 200 local names in a function: the text below has its own.
    return f"{above}return (function()\n{_sunk(below)}end)()\n"


def _code(text: str) -> str:
    return re.sub(r"--.*", "", text)


def _without_unused(text: str) -> str:
    """``text`` without unused functions. A function is above its calls."""
    for function in reversed(list(_FUNCTION.finditer(text))):
        if not re.search(rf"\b{function[1]}\b", _code(text[function.end() :])):
            text = text[: function.start()] + text[function.end() :]
    return text


def _with_numbers(text: str) -> str:
    """``text`` with its numbers in place of their names."""
    values = dict(_NUMBER.findall(text))
    if not values:
        return text
    any_name = rf"\b({'|'.join(values)})\b"
    return re.sub(any_name, lambda name: values[name[1]], _NUMBER.sub("", text))


def number_arguments(text: str, signature: Arguments) -> str:
    """``text`` with the numbers of arguments in place of their names."""
    if by_number := re.search(r".*\bARGV\b(?!\.).*", _code(text)):
        raise ValueError(f"an argument without its name: {by_number[0].strip()}")
    first, size = len(signature.single) + 1, len(signature.fields)

    def loop(match: re.Match[str]) -> str:
        names = tuple(match[1].split(", "))
        if (
            match[2] != signature.items
            or len(names) != size
            or (size > 1 and names != signature.fields)
        ):
            raise ValueError(f"differs from the header: {match[0]}")
        values = ["ARGV[at]", *(f"ARGV[at + {offset}]" for offset in range(1, size))]
        start = f"{first} + {size} * {match[3]}" if match[3] else first
        head = f"for at = {start}, #ARGV, {size} do"
        return f"{head} local {match[1]} = {', '.join(values)}"

    def of_items(name: str, replacement: str) -> str:
        if name != signature.items:
            raise ValueError(f"the header names no items ARGV.{name}")
        return replacement

    def value(match: re.Match[str]) -> str:
        if match[1] not in signature.single:
            raise ValueError(f"the header does not name {match[0]}")
        return f"ARGV[{signature.single.index(match[1]) + 1}]"

    text = _LOOP.sub(loop, text)
    text = _COUNT.sub(lambda match: of_items(match[1], f"((#ARGV - {first - 1}) / {size})"), text)
    if size == 1:
        text = _TABLE.sub(lambda match: of_items(match[1], f"{{unpack(ARGV, {first})}}"), text)
    return _VALUE.sub(value, text)


def spell_keys(text: str) -> str:
    """``text`` with its keys spelled out. A function for each key would cost a fifth of a script's
    time. Raises ``ValueError`` for an unknown key and a wrong number of ids.
    """
    spelled = _KEY.sub(_spell, text)
    if left := re.search(r"\bkey\..*", _code(spelled)):
        raise ValueError(f"not a key with its ids: {left[0]}")
    return spelled


def _spell(key: re.Match[str]) -> str:
    name, ids = key[1], [key_id.strip() for key_id in key[2].split(",") if key_id.strip()]
    template = STATE.get(name, QUEUES.get(name))
    if template is None:
        raise ValueError(f"unknown key: {key[0]}")
    first, *others = template.split("{}")
    if len(ids) != len(others):
        raise ValueError(f"{len(others)} ids expected: {key[0]}")
    parts = ["KEYS[1]" if name in STATE else "KEYS[2]", f"'{first}'"]
    for key_id, piece in zip(ids, others, strict=True):
        parts += [f"({key_id})", f"'{piece}'"] if piece else [f"({key_id})"]
    return f"({' .. '.join(parts)})"
