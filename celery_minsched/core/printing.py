"""Texts for a terminal: nothing in them moves its cursor, sets its title or reorders letters."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """The text with "?" for each character that is not printable and not to ``keep``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)
