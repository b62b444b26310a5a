"""Shared parts of all benchmarks: statistics, tables, and a description of the machine."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median, quantiles

import click
import redis
from rich import box
from rich.console import Console
from rich.table import Table

from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.queries import Views
from tests.support.server import Server

PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Figure:
    """A median over rounds, and the range of the middle half of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Figure:
        if len(rounds) < 2:
            return cls(rounds[0], rounds[0], rounds[0])
        low, _, high = quantiles(rounds, n=4, method="inclusive")
        return cls(median(rounds), low, high)

    def __str__(self) -> str:
        return (
            f"{three_digits(self.median)} ({three_digits(self.low)} to {three_digits(self.high)})"
        )


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return quantiles(values, n=100, method="inclusive")[-1] if len(values) > 1 else values[0]


def three_digits(value: float) -> str:
    """A number with three digits. A larger number has all digits of its integer part."""
    digits = max(2 - math.floor(math.log10(value)), 0) if value > 0 else 0
    return f"{value:,.{digits}f}"


def say(text: str) -> None:
    """Print a line. Output to a file is not wrapped."""
    _console().print(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row))
    _console().print(table)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=250)


def machine(client: redis.Redis) -> str:
    """The machine and the versions in one line."""
    server = client.info("server")
    name = "valkey" if "valkey_version" in server else "redis"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f} at start, "
        f"Python {platform.python_version()}, celery {version('celery')}, "
        f"{name} {server[f'{name}_version']}"
    )


def print_machine() -> None:
    """Print the machine and the versions."""
    server = Server()
    try:
        with server.client() as client:
            say(machine(client))
    finally:
        server.close()


def wait_for(condition: Callable[[], bool], complaint: Callable[[], str]) -> None:
    """Wait until the condition is true. Raises ``ClickException`` after ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise click.ClickException(complaint())
        time.sleep(0.05)


def check(views: Views) -> None:
    """Raise ``ClickException`` if the scheduler's data contradict each other."""
    if violations := Checker(views).check():
        raise click.ClickException("\n".join(map(str, violations)))
