"""Installs a wheel into empty environments and runs the README's quick start there.

``python -m tests.support.release_check dist/*.whl`` uses the oldest and the newest Python that the
project supports and this machine has. It names the versions that are missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from .fleet import ROOT, wait_for
from .server import Server

#: The commands that the check runs while the node runs.
COMMANDS = (
    "celery -A quickstart minsched nodes",
    "celery -A quickstart minsched check",
    "celery minsched scripts lua",
)


def supported() -> list[str]:
    """The versions of Python that pyproject.toml names, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    return sorted(named, key=lambda version: int(version.partition(".")[2]))


def find(version: str) -> str | None:
    """A Python of this version: on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    installed = sorted(pyenv.glob(f"{version}.*/bin/python"))
    return str(installed[-1]) if installed else shutil.which(f"python{version}")


def check(wheel: Path, python: str) -> None:
    """Install and run the wheel. Raises ``CalledProcessError`` or ``AssertionError``."""
    with tempfile.TemporaryDirectory(prefix="minsched-release-") as name:
        folder = Path(name)
        subprocess.run([python, "-m", "venv", "env"], cwd=folder, check=True)
        programs = folder / "env/bin"
        subprocess.run([programs / "pip", "install", "--quiet", wheel.resolve()], check=True)
        server = Server()
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "BROKER": server.url, "PATH": path}
        environment.pop("PYTHONPATH", None)

        def run(command: str) -> str:
            process = subprocess.run(
                command.split(), cwd=folder, env=environment, capture_output=True, text=True
            )
            assert process.returncode == 0, f"{command}: {process.stdout}{process.stderr}"
            return process.stdout

        shutil.copy(ROOT / "examples/quickstart.py", folder)
        start = "node-agent -A quickstart --node-id gpu-1 --slots 1 --pool asr --lang zh:en"
        node = subprocess.Popen(
            start.split(),
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            answer = run("python quickstart.py").splitlines()[-1]
            assert answer == "speech.wav, by gpu-1", answer
            for command in COMMANDS:
                wait_for(lambda command=command: run(command) is not None, command)
            assert (folder / "lua/dispatch_task.lua").exists()
        finally:
            node.terminate()
            node.wait(60)
            server.close()
        assert node.returncode == 0


def main() -> None:
    """Check the wheel with both versions."""
    wheel = Path(sys.argv[1])
    pythons = {version: python for version in supported() if (python := find(version))}
    if missing := sorted(set(supported()) - set(pythons)):
        print(f"not on this machine: Python {', '.join(missing)}")
    for version in dict.fromkeys((min(pythons, key=_minor), max(pythons, key=_minor))):
        check(wheel, pythons[version])
        print(f"Python {version}: {wheel.name} installs and runs")


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


if __name__ == "__main__":
    main()
