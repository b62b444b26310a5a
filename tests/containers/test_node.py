"""The project's image as the worker of pytest-celery, with a broker in another container."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    DEFAULT_WORKER_VOLUME,
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
    RedisContainer,
    RedisTestBackend,
    RedisTestBroker,
)
from pytest_docker_tools import build, container, fxtr

from celery_minsched import MinSched, NodeLostError
from celery_minsched.consistency.checker import Checker
from celery_minsched.monitor.models import NodeView

from ..support.fleet import ROOT, wait_for
from . import node_app


class NodeContainer(CeleryWorkerContainer):
    """A container with a node instead of a Celery worker."""

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        return ["node-agent", "-A", "app", "--slots", "2", "--pool", "asr", "-l", "INFO", *args]

    @classmethod
    def app_module(cls) -> ModuleType:
        return node_app


class Setup(CeleryTestSetup):
    """A setup whose application uses the scheduler."""

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        MinSched(app)


def _host_url(container: RedisContainer) -> str:
    """The URL at which the tests reach a Redis container. The tests may run in a container, too."""
    host, port = container.get_addr("6379/tcp")
    return f"{container.prefix()}{host}:{port}/{container.vhost}"


# pytest-celery (1.3) combines localhost with the port of get_addr. Inside a container this is
# wrong. Its fixtures name this class, so the property must be set on the class.
RedisContainer.host_url = property(_host_url)


class Redis7(RedisContainer):
    @classmethod
    def image(cls) -> str:
        return os.environ.get("REDIS_IMAGE", "redis:7.4.11")


node_image = build(
    path=str(ROOT),
    tag="celery-minsched-test",
    rm=True,
    buildargs={"PYTHON_IMAGE": os.environ.get("PYTHON_IMAGE", "python:3.11.15-slim")},
)


def node(node_id: str) -> Any:
    """A container that runs the node with this id."""
    return container(
        image="{node_image.id}",
        command=NodeContainer.command("--node-id", node_id),
        environment=fxtr("default_worker_env"),
        network="{default_pytest_celery_network.name}",
        volumes={"{default_worker_volume.name}": DEFAULT_WORKER_VOLUME},
        wrapper_class=NodeContainer,
        init=True,
        timeout=60,
    )


n1 = node("n1")
n2 = node("n2")


@pytest.fixture
def default_worker_container_cls() -> type[CeleryWorkerContainer]:
    return NodeContainer


@pytest.fixture
def default_redis_broker_cls() -> type[RedisContainer]:
    return Redis7


@pytest.fixture
def default_redis_backend_cls() -> type[RedisContainer]:
    return Redis7


@pytest.fixture
def celery_broker_cluster(celery_redis_broker: RedisTestBroker) -> CeleryBrokerCluster:
    return CeleryBrokerCluster(celery_redis_broker)


@pytest.fixture
def celery_backend_cluster(celery_redis_backend: RedisTestBackend) -> CeleryBackendCluster:
    return CeleryBackendCluster(celery_redis_backend)


@pytest.fixture
def celery_worker_cluster(
    n1: NodeContainer, n2: NodeContainer, celery_setup_app: Celery
) -> CeleryWorkerCluster:
    return CeleryWorkerCluster(*(CeleryTestWorker(node, celery_setup_app) for node in (n1, n2)))


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    return Setup


SLEEP = "pytest_celery.vendors.worker.tasks.sleep"


def send(setup: CeleryTestSetup, seconds: float, **demand: object) -> Any:
    return setup.app.send_task(SLEEP, (seconds,), minsched={"pool": "asr", **demand})


def nodes(setup: CeleryTestSetup) -> dict[str, NodeView]:
    return {view.node_id: view for view in setup.app.minsched.views.nodes()}


def wait_online(setup: CeleryTestSetup, *node_ids: str) -> None:
    for node_id in node_ids:
        wait_for(
            lambda node_id=node_id: (node := nodes(setup).get(node_id)) and node.online,
            f"{node_id} to be online",
            patience=60,
        )


def runs_a_job(setup: CeleryTestSetup, node_id: str) -> bool:
    """Wait until the node is online, and run a job that requires the node."""
    wait_online(setup, node_id)
    result = send(setup, 0, preferred_node=node_id, affinity="require")
    assert result.get(timeout=60) is True
    # The result is stored before the slot is free.
    wait_for(lambda: status(setup, result) == ("finished", node_id), "its slot to be free")
    return True


def status(setup: CeleryTestSetup, result: Any) -> tuple[str, str]:
    job = setup.app.minsched.find_job(result.id)
    return (job.status, job.node_id)


def test_jobs_are_spread_evenly_over_the_nodes(celery_setup: CeleryTestSetup) -> None:
    wait_online(celery_setup, "n1", "n2")
    results = [send(celery_setup, 1) for _ in range(4)]
    assert [result.get(timeout=60) for result in results] == [True] * 4
    wait_for(lambda: all(node.current_jobs == 0 for node in nodes(celery_setup).values()))
    outcomes = sorted(status(celery_setup, result) for result in results)
    assert outcomes == [("finished", "n1")] * 2 + [("finished", "n2")] * 2
    assert Checker(celery_setup.app.minsched.views).check() == []


def test_a_stopped_container_finishes_its_running_job(celery_setup: CeleryTestSetup) -> None:
    result = send(celery_setup, 3, preferred_node="n1")
    wait_for(lambda: status(celery_setup, result) == ("running", "n1"))
    n1 = docker_container(celery_setup, 0)
    n1.stop(timeout=60)
    assert n1.wait()["StatusCode"] == 0
    assert result.get(timeout=10) is True
    assert status(celery_setup, result) == ("finished", "n1")
    assert nodes(celery_setup)["n1"].state == "left"


def test_a_disconnected_node_is_declared_dead_and_serves_again_after_its_return(
    celery_setup: CeleryTestSetup, default_pytest_celery_network: Any
) -> None:
    result = send(celery_setup, 60, preferred_node="n1")
    wait_for(lambda: status(celery_setup, result) == ("running", "n1"))
    scheduler = celery_setup.app.minsched.scheduler
    acknowledged = scheduler.keys("node_acked", "n1")
    wait_for(lambda: scheduler.redis.exists(acknowledged), "the task to be acknowledged")
    n1 = docker_container(celery_setup, 0)
    default_pytest_celery_network.disconnect(n1)
    with pytest.raises(NodeLostError):  # the task was acknowledged early
        result.get(timeout=60)
    assert status(celery_setup, result) == ("lost", "n1")
    default_pytest_celery_network.connect(n1)
    assert runs_a_job(celery_setup, "n1")
    assert Checker(celery_setup.app.minsched.views).check() == []


def test_the_nodes_register_again_after_redis_lost_its_data(
    celery_setup: CeleryTestSetup,
) -> None:
    celery_setup.broker.restart()  # loses its data
    assert runs_a_job(celery_setup, "n1")
    assert runs_a_job(celery_setup, "n2")


def docker_container(setup: CeleryTestSetup, number: int) -> Any:
    return setup.worker_cluster[number].container._container
