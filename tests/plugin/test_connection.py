"""The scheduler connects to Redis with the settings of the broker."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Barrier
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from redis.sentinel import MasterNotFoundError, Sentinel

from celery_minsched import MinSched, RegisterNodeRequest

from ..support.fleet import wait_for
from ..support.proxy import Proxy
from ..support.server import Server, free_port, program


def keys_after_dispatch(app: Celery) -> list[str]:
    """Register a node and send two tasks. Returns the keys in Redis."""
    plugin = MinSched(app)
    plugin.scheduler.register_node(
        RegisterNodeRequest(node_id="n1", max_jobs=1, pools_json='["asr"]')
    )
    app.conf.result_backend = "disabled://"
    app.send_task("x", minsched={"pool": "asr"})
    app.send_task("y", minsched={"pool": "asr"})  # waits
    client = plugin.scheduler.redis
    keys = [key.decode() for key in client.keys("*")]
    app.close()
    return keys


def test_the_broker_url_gives_password_and_database_number() -> None:
    server = Server("--requirepass", "secret@word")
    try:
        app = Celery("c", broker=f"redis://:secret%40word@127.0.0.1:{server.port}/3")
        assert "minsched.node.n1" in keys_after_dispatch(app)
        with server.client(password="secret@word", db=3) as client:
            assert client.exists("scheduler:nodes")
    finally:
        server.close()


def test_every_connection_has_timeouts_and_keepalive_unless_the_user_sets_them() -> None:
    app = Celery("c", broker="redis://", broker_transport_options={"socket_timeout": 60})
    MinSched(app)
    for connection in (app.connection_for_write(), app.connection_for_read()):
        options = connection.transport_options
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (60, 5.0)
        assert options["socket_keepalive"] is True
    app.conf.broker_write_url = "amqp://"
    assert "socket_keepalive" not in app.connection_for_write().transport_options
    app.close()


def test_a_publisher_reconnects_after_a_silent_connection_loss(server: Server) -> None:
    proxy = Proxy(server.port)
    options = {"socket_timeout": 0.5}
    app = Celery("c", broker=proxy.url, broker_transport_options=options)
    MinSched(app)
    try:
        for demand in (None, {"pool": "asr"}):
            app.send_task("x", minsched=demand) if demand else app.send_task("x")
        proxy.silence_some(Random(0), 1000)
        began = monotonic()
        for demand in (None, {"pool": "asr"}):
            app.send_task("x", minsched=demand) if demand else app.send_task("x")
        assert monotonic() - began < 10
    finally:
        app.close()
        proxy.close()


def test_each_of_many_threads_gets_a_connection(server: Server) -> None:
    app = Celery("c", broker=server.url)
    scheduler = MinSched(app).scheduler
    all_connected = Barrier(24)

    def hold_connection(number: int) -> None:
        with scheduler.redis.client():
            all_connected.wait(20)

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(hold_connection, range(24)))
    scheduler.redis.close()
    app.close()


def test_a_unix_socket_works(server: Server) -> None:
    app = Celery("c", broker=f"redis+socket://{server.socket_path}")
    assert {"minsched.node.n1", "minsched.job.:2"} <= set(keys_after_dispatch(app))


def test_the_global_key_prefix_is_part_of_every_key(server: Server) -> None:
    app = Celery("c", broker=server.url)
    app.conf.broker_transport_options = {"global_keyprefix": "app1."}
    keys = keys_after_dispatch(app)
    assert {"app1.minsched.node.n1", "app1.scheduler:nodes", "app1.minsched.job.:2"} <= set(keys)
    assert all(key.startswith("app1.") for key in keys)


def test_minsched_key_prefix_names_the_scheduler_s_keys(server: Server) -> None:
    app = Celery("c", broker=server.url)
    app.conf.minsched_key_prefix = "speech"
    assert "speech:nodes" in keys_after_dispatch(app)


def test_minsched_database_url_overrides_the_broker(server: Server) -> None:
    app = Celery("c", broker="memory://")
    app.conf.update(minsched_database_url=server.url, minsched_when_full="error")
    plugin = MinSched(app)
    plugin.scheduler.register_node(
        RegisterNodeRequest(node_id="n1", max_jobs=1, pools_json='["asr"]')
    )
    app.conf.result_backend = "disabled://"
    app.send_task("x", minsched={"pool": "asr"})
    assert app.connection().SimpleQueue("minsched.node.n1").get(timeout=60).headers["task"] == "x"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Directory with a self-signed certificate for localhost and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command += ["-subj", "/CN=localhost"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    return tmp_path


def test_tls_works(certificate: Path) -> None:
    port = free_port()
    cert, key = f"{certificate}/cert.pem", f"{certificate}/key.pem"
    options = ("--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
    try:
        server = Server("--tls-port", str(port), *options)
    except RuntimeError:
        pytest.skip("this server was built without TLS")
    try:
        ca = f"ssl_cert_reqs=required&ssl_ca_certs={cert}&ssl_check_hostname=false"
        assert "minsched.node.n1" in keys_after_dispatch(
            Celery("c", broker=f"rediss://localhost:{port}/0?{ca}")
        )
    finally:
        server.close()


@pytest.fixture
def sentinel(server: Server, tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel that watches the server."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    process = subprocess.Popen(
        [program(), str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    yield port
    process.terminate()
    process.wait(60)


def test_a_sentinel_works(server: Server, sentinel: int) -> None:
    app = Celery("c", broker=f"sentinel://127.0.0.1:{sentinel}/0")
    app.conf.broker_transport_options = {"master_name": "main"}

    def is_watching() -> Any:
        try:
            return Sentinel([("127.0.0.1", sentinel)]).discover_master("main")
        except MasterNotFoundError:
            return None

    wait_for(is_watching)
    assert "minsched.node.n1" in keys_after_dispatch(app)
