"""The wheel contains the packages. The sdist contains all files for the build and the tests."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

import hatchling.build
import pytest

import celery_minsched

from ..support.fleet import ROOT

PACKAGES = ("celery_minsched", "node_agent")


def tracked() -> set[str]:
    """The files that git tracks. In an unpacked sdist these are all files."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return {name for name in git.stdout.splitlines() if (ROOT / name).exists()}
    return {
        str(path.relative_to(ROOT))
        for name in (*PACKAGES, "tests", "docs")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with contextlib.chdir(ROOT):
        name = hatchling.build.build_sdist(str(folder))
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> zipfile.ZipFile:
    """The wheel, built from the sdist."""
    with contextlib.chdir(sdist):
        name = hatchling.build.build_wheel(str(sdist.parent))
    return zipfile.ZipFile(sdist.parent / name)


def test_the_wheel_has_all_files_of_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {
        name for name in tracked() if name.startswith(tuple(f"{p}/" for p in PACKAGES))
    }
    kinds = {Path(name).suffix for name in packed}
    assert kinds == {".py", ".typed", ".lua", ".html", ".css", ".js"}


def test_the_sdist_has_all_tracked_files(sdist: Path) -> None:
    packed = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    left_out = {name for name in tracked() - packed if not name.startswith(".")}
    assert left_out == set()
    assert packed - tracked() <= {"PKG-INFO", ".gitignore"}


def test_the_version_is_written_in_one_place(wheel: zipfile.ZipFile) -> None:
    version = celery_minsched.__version__
    [metadata] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    assert f"\nVersion: {version}\n" in wheel.read(metadata).decode()
    literal = re.compile(rf"[\"']{re.escape(version)}[\"']")
    files = [ROOT / name for name in tracked() if name.endswith((".py", ".toml"))]
    names = [path.name for path in files if literal.search(path.read_text(encoding="utf-8"))]
    assert names == ["__init__.py"]
