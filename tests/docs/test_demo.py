"""The quick start of the README and ``make demo`` work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ..support.fleet import ROOT
from ..support.server import Server

EXAMPLES = ROOT / "examples"


def test_the_quick_start_of_the_readme_runs_as_written(server: Server, tmp_path: Path) -> None:
    text = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert text == (EXAMPLES / "quickstart.py").read_text()
    assert len([line for line in text.splitlines() if line]) <= 15
    (tmp_path / "quickstart.py").write_text(text)
    environment = {**os.environ, "BROKER": server.url}
    command = "node-agent -A quickstart --node-id gpu-1 --slots 1 --pool asr --lang zh:en"
    program = str(Path(sys.executable).parent / "node-agent")
    node = subprocess.Popen(
        [program, *command.split()[1:]], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        result = subprocess.run(
            [sys.executable, "quickstart.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.stdout.splitlines()[-1:] == ["speech.wav, by gpu-1"], result.stderr
    finally:
        node.terminate()
        node.wait(60)


class Demo:
    """``demo.py --quick`` in its own process group, and its child processes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "demo.py"), "--quick"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.family: set[psutil.Process] = set()

    def read_until(self, text: str) -> str:
        """The output up to the line with the text."""
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                self.family.update(psutil.Process(self.process.pid).children(recursive=True))
                return "".join(lines)
        raise AssertionError(f"ended without {text!r}: {''.join(lines)}")

    def finish(self) -> str:
        """The rest of the output. All processes must have ended."""
        output, _ = self.process.communicate(timeout=120)
        _, left = psutil.wait_procs(self.family, timeout=60)
        assert not left
        return output


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo()
    yield demo
    if demo.process.poll() is None:
        demo.process.terminate()
        demo.process.communicate()


def test_the_demo_shows_the_jobs_of_each_node(demo: Demo) -> None:
    output = demo.read_until(" done,") + demo.finish()
    assert demo.process.returncode == 0, output
    rows = re.findall(r"│ ([\w-]+) +│ \w+ +│ +\d+ │ +(\d+) │.*│ +(\d+) │", output)
    assert [row[0] for row in rows] == ["big", "gpu-1", "plain", "small"], output
    assert {row[2] for row in rows} == {"0"}, "slots taken at the end"
    jobs = sum(int(row[1]) for row in rows)
    assert f"Jobs: {jobs} finished. Slots taken now: 0." in output
    assert "The invariants hold." in output
    for pool in ("pack", "index"):
        assert re.search(rf"^{pool}: mean response .* times the ideal's", output, re.MULTILINE)
    assert re.search(r"sessions: \d+ of \d+ later jobs ran on the node", output)
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("signum", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
    ids=["ctrl-c to the group", "terminate to the parent"],
)
def test_a_demo_that_is_stopped_leaves_no_process(
    demo: Demo, signum: int, send: Callable[[int, int], None]
) -> None:
    demo.read_until(" done,")
    send(demo.process.pid, signum)
    output = demo.finish()
    assert demo.process.returncode == 128 + signum, output
    assert "Traceback" not in output


def test_a_demo_that_is_stopped_while_it_shuts_down_leaves_no_process(demo: Demo) -> None:
    demo.read_until(" done,")
    demo.read_until("The invariants hold.")  # the last line before the nodes are stopped
    while demo.process.poll() is None:
        demo.process.send_signal(signal.SIGTERM)
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    demo.finish()
