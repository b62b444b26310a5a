"""Tests that need a Docker engine and the extra ``containers`` (make compose-check)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
MISSING = [name for name in ("docker", "pytest_celery") if find_spec(name) is None]

#: Without the extra, the modules cannot be imported.
collect_ignore_glob = ["*.py"] if MISSING else []


def pytest_configure(config: pytest.Config) -> None:
    if MISSING and config.option.markexpr == "containers":
        names = " and ".join(MISSING)
        raise pytest.UsageError(f"{names} not found: pip install --editable '.[dev,containers]'")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.containers)


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Fails if no Docker engine answers."""
    import docker

    try:
        docker.from_env().ping()
    except docker.errors.DockerException as exc:
        pytest.fail(f"no Docker engine answers: {exc}")
