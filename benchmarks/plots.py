"""Draws the pictures of docs/benchmarks.md: panels of curves with logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.common import say
from benchmarks.replay import Replay

plot_option = click.option(
    "--plot", "picture", type=click.Path(path_type=Path), help="Write a PNG to this file."
)


class Curve(NamedTuple):
    """A line through points."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = "o-"


class Panel(NamedTuple):
    """One panel of a picture."""

    title: str
    curves: Sequence[Curve]
    xlabel: str
    ylabel: str
    ylim: tuple[float, float] | None = None


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write a PNG, and print its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for curve in panel.curves:
            axis.plot(curve.xs, curve.ys, curve.style, label=curve.name, markersize=3)
        axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
        axis.set(xscale="log", yscale="log", ylim=panel.ylim)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    say(f"Plot: {path}")


def draw_responses(path: Path, replays: Mapping[str, Sequence[Replay]]) -> None:
    """Draw a panel for each scenario: the share of jobs that took longer than a time."""
    panels = []
    for scenario, scenario_runs in replays.items():
        curves = [_shares(run.contender, run.responses, "-") for run in scenario_runs]
        curves.append(_shares("ideal", scenario_runs[0].ideal, "k:"))
        labels = ("seconds from arrival to end", "share of jobs that took longer")
        panels.append(Panel(scenario, curves, *labels, ylim=(1e-3, 1)))
    draw(path, panels)


def _shares(name: str, responses: Sequence[float], style: str) -> Curve:
    shares = [1 - at / len(responses) for at in range(len(responses))]
    return Curve(name, sorted(responses), shares, style)
