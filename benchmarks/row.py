"""A row of the summary: a measure, its goal, and its figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common import Figure, three_digits

COLUMNS = ("measure", "required", "measured", "met")


@dataclass(frozen=True)
class Row:
    """A measured figure that should be at least, or at most, a limit."""

    measure: str
    sign: str  # "≥" or "≤"
    limit: float
    figure: Figure
    #: Where the limit comes from, if a contender sets it in the same run.
    beside: str = ""
    show: Callable[[float], str] = three_digits

    @property
    def is_met(self) -> bool:
        """Is the median on the right side of the limit, in the digits that the row shows?"""
        shown = float(self.show(self.figure.median).replace(",", ""))
        return shown >= self.limit if self.sign == "≥" else shown <= self.limit

    def cells(self) -> list[str]:
        """The cells of the table. One round has no range."""
        one = self.figure
        cell = self.show(one.median)
        if one.low != one.high:
            cell += f" ({self.show(one.low)} to {self.show(one.high)})"
        required = f"{self.sign} {self.beside}{self.limit:,.6g}"
        return [self.measure, required, cell, "yes" if self.is_met else "no"]
