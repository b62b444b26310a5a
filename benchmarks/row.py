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
    #: The source of the limit, if a contender sets it in the same run.
    beside: str = ""
    show: Callable[[float], str] = three_digits

    @property
    def is_met(self) -> bool:
        """True if the rounded median meets the limit."""
        rounded = float(self.show(self.figure.median).replace(",", ""))
        return rounded >= self.limit if self.sign == "≥" else rounded <= self.limit

    def cells(self) -> list[str]:
        """The cells of the table. One round has no range."""
        figure = self.figure
        cell = self.show(figure.median)
        if figure.low != figure.high:
            cell += f" ({self.show(figure.low)} to {self.show(figure.high)})"
        required = f"{self.sign} {self.beside}{self.limit:,.6g}"
        return [self.measure, required, cell, "yes" if self.is_met else "no"]
