"""Describes demands and wrong values in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .selector import parse_selector


def short_demand(pool_selector: str, capabilities: Iterable[str] = (), node_id: str = "") -> str:
    """A demand in a table's cell: ``asr``, ``zh:en +gpu``, ``asr @n1`` (at that node)."""
    node = [f"@{node_id}"] if node_id else []
    return " ".join([pool_selector, *(f"+{name}" for name in capabilities), *node])


def demand_in_words(
    pool_selector: str, capabilities: Iterable[str] = (), others: Mapping[str, str] | None = None
) -> str:
    """A demand in a sentence: ``pool asr, language pair zh:en, capabilities gpu``.

    ``others`` are more keys of the demand and their values, as in ``session u42``.
    """
    selector, names = parse_selector(pool_selector), ", ".join(capabilities)
    parts = [
        selector.pool and f"pool {selector.pool}",
        selector.pairs and f"language pair {' or '.join(selector.pairs)}",
        names and f"capabilities {names}",
        *(f"{key} {value}" for key, value in (others or {}).items() if value),
    ]
    return ", ".join(part for part in parts if part)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`` Did you mean …?`` with the known name that is closest, or "" if no name is close."""
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {prefix}{close[0]}?" if close else ""


def _field_of(error: ErrorDetails) -> str:
    return ".".join(map(str, error["loc"]))


def sentence_of(exc: ValidationError, subject: Callable[[ErrorDetails], str] = _field_of) -> str:
    """The validation errors of a model as a sentence. ``subject`` names the field of an error.

    The values are not in the sentence, unless ``subject`` or the error's own text shows them.
    """
    return "; ".join(
        f"{subject(error)}: {error['msg']}" if error["loc"] else error["msg"]
        for error in exc.errors()
    )
