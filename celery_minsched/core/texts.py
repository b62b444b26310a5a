"""Answers of Redis as text. Bytes that are not UTF-8 become replacement characters."""

from __future__ import annotations

import re
from typing import Any, cast


def text(answer: Any) -> Any:
    """An answer with its bytes as text, in lists of any depth. Other values stay."""
    if isinstance(answer, bytes):
        return answer.decode(errors="replace")
    if isinstance(answer, list | tuple):
        return [text(item) for item in answer]
    return answer


def text_of(answer: object) -> str:
    """One answer as text: bytes, a text, or a number."""
    return str(text(answer))


def text_or_none(answer: object) -> str | None:
    """One answer as text, or ``None`` for ``None``."""
    return None if answer is None else text_of(answer)


def texts(answers: object) -> list[str]:
    """A list of answers as texts."""
    return [text_of(answer) for answer in cast("list[object]", answers)]


def record_of(answer: object) -> dict[str, str]:
    """A hash as texts."""
    return {text_of(k): text_of(v) for k, v in cast("dict[object, object]", answer).items()}


def numbers_of(answer: object) -> dict[str, int]:
    """The fields of a hash that hold whole numbers. Other fields are left out."""
    return {name: int(value) for name, value in record_of(answer).items() if is_number(value)}


def is_number(value: str) -> bool:
    """Is it a whole number, as Redis writes it?"""
    return re.fullmatch(r"-?[0-9]{1,19}", value) is not None
