"""Texts for people: printable on any terminal, and times in short form."""

from __future__ import annotations


def printable(text: str, keep: str = "") -> str:
    """The text with "?" for each unprintable character, except those in ``keep``.

    So no text moves the cursor, sets the terminal's title or reorders letters.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else "?" for char in text)


def duration(milliseconds: float) -> str:
    """A time span in its two largest units: ``0.4 s``, ``12 s``, ``3 m 10 s``, ``2 d 4 h``."""
    seconds = max(milliseconds, 0) / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    rounded = int(seconds)
    for size, unit, smaller, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if rounded >= size:
            return f"{rounded // size} {unit} {rounded % size // smaller} {lower}"
    return f"{rounded // 60} m {rounded % 60} s" if rounded >= 60 else f"{rounded} s"
