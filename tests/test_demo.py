"""What the README promises of its two programs: the fifteen lines and ``make demo``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from .fleet import ROOT, wait_for
from .server import Server

EXAMPLES = ROOT / "examples"


def test_the_fifteen_lines_of_the_readme_run_as_written(server: Server, tmp_path: Path) -> None:
    [text] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
        said = subprocess.run(
            [sys.executable, "quickstart.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert said.stdout.splitlines()[-1:] == ["speech.wav, by gpu-1"], said.stderr
    finally:
        node.terminate()
        node.wait(20)


def start_demo() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / "demo.py"), "--quick"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_the_demo_shows_where_the_work_went() -> None:
    demo = start_demo()
    family = wait_for(lambda: psutil.Process(demo.pid).children(recursive=True))
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    for node_id in ("big", "small", "gpu-1", "plain"):
        assert re.search(rf"│ {node_id} +│ \w+ +│ +\d+ │ +[1-9]\d* │.*│ +0 │", output), output
    assert "Slots taken now: 0." in output
    assert "The invariants hold." in output
    assert re.search(r"pack: mean response .* times that of one queue", output)
    assert not [process for process in family if process.is_running()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process(signum: int) -> None:
    demo = start_demo()
    everyone: set[psutil.Process] = set()

    def is_at_work() -> bool:
        everyone.update(psutil.Process(demo.pid).children(recursive=True))
        return len(everyone) > 10

    wait_for(is_at_work)
    demo.send_signal(signum)
    demo.communicate(timeout=40)
    assert demo.returncode in (130, 143)
    psutil.wait_procs(everyone, timeout=5)
    assert not [process for process in everyone if process.is_running()]
