"""The exit codes of all commands, and the command class that documents them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import click

from ..core.printing import printable


class ExitCode(IntEnum):
    """The exit codes. Scripts of users depend on the numbers."""

    DONE = 0
    NOT_DONE = 1
    FAILED = 2
    WAITING = 3
    BLOCKED = 4


#: The meanings of the exit codes for all commands. A command can define its own with
#: ``exit_codes``.
EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.DONE: "The command has done its work, or has answered.",
    ExitCode.NOT_DONE: "Work is left, or the object does not exist. The output shows the reason.",
    ExitCode.FAILED: "The command failed. Standard error shows the reason.",
    ExitCode.WAITING: "The task waits or is delayed.",
    ExitCode.BLOCKED: "The task is lost, or no registered node can run it.",
}


class Command(click.Command):
    """A command whose help lists its own exit codes."""

    def __init__(
        self, *args: Any, exit_codes: Mapping[ExitCode, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.exit_codes = exit_codes or {}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes below the options."""
        super().format_epilog(ctx, formatter)
        if self.exit_codes:
            with formatter.section("Exit codes"):
                codes = sorted({ExitCode.FAILED: "", **self.exit_codes})
                formatter.write_dl([(str(int(code)), self.meaning(code)) for code in codes])

    def meaning(self, code: ExitCode) -> str:
        """The meaning of the exit code for this command."""
        return self.exit_codes.get(code) or EXIT_CODES[code]


class Failure(click.ClickException):
    """The command failed. The message is a sentence for standard error."""

    exit_code = ExitCode.FAILED

    def format_message(self) -> str:
        """The sentence, printable even if it quotes data from Redis."""
        return printable(self.message, keep="\n")
