"""The scheduler's Redis client.

kombu makes a connection pool from a broker URL and its transport options (TLS, password, database,
unix socket, Sentinel, credential provider) in ``Channel._get_pool`` (seen in kombu 5.7). That name
is private, so only this module uses it. The client has its own pool with time-outs, because kombu
by default has none.
"""

from __future__ import annotations

import socket
from typing import Any

import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu import Connection

from ..core.keys import PRIORITY_STEPS, SEP, Keys
from ..core.settings import SOCKET_TIMEOUT
from .config import configured_names

#: Seconds without traffic before the kernel sends a probe, seconds between two probes, and the
#: number of lost probes that end the connection. Some firewalls drop a connection that is idle for
#: a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

#: redis-py's own default.
_NO_LIMIT = 2**31


def with_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Transport options for Redis, with time-outs and keepalive if the user sets none."""
    names = {name: value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
    return {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "socket_keepalive": True,
        "socket_keepalive_options": {getattr(socket, name): n for name, n in names.items()},
        **options,
    }


def limit(connection: Connection) -> Connection:
    """Add time-outs to a connection to a Redis broker before it connects."""
    if connection.get_transport_cls().driver_type == "redis":
        connection.transport_options = with_limits(connection.transport_options or {})
    return connection


def result_options(app: Celery) -> dict[str, Any]:
    """Settings of Celery's Redis result backend, for those that the user does not set.

    The time-out stays at Celery's (5.7) 120 s: a task fails if its result cannot be stored.
    """
    defaults = {
        "redis_socket_connect_timeout": app.conf.redis_socket_timeout,
        # A connection over a Unix socket does not accept this option, and Celery (5.7) passes it.
        "redis_socket_keepalive": "socket://" not in str(app.conf.result_backend),
    }
    configured = configured_names(app)
    return {name: value for name, value in defaults.items() if name not in configured}


def _connection(app: Celery, url: str | None, timeout: float | None) -> Connection:
    """A kombu connection with the broker's settings. It is not connected."""
    options = with_limits(app.conf.broker_transport_options)
    if timeout is not None:
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = min(timeout, options[name] or timeout)
    if url is None:
        connection: Connection = app.connection_for_write(transport_options=options)
        return connection
    return Connection(url, transport_options=options, ssl=app.conf.redis_backend_use_ssl or None)


def client_of(app: Celery, url: str | None, timeout: float | None = None) -> redis.Redis:
    """A Redis client for the application's broker, or for ``url``.

    ``timeout`` is the most seconds of a call; ``None``: the transport options'. Raises
    ``ImproperlyConfigured`` if the broker is not Redis, and kombu's ``OperationalError`` if the
    server cannot be reached.
    """
    connection = _connection(app, url, timeout)
    if connection.transport.driver_type != "redis":
        raise ImproperlyConfigured(
            f"The scheduler keeps its state in Redis, and the broker {connection.as_uri()} is not "
            "Redis. Set minsched_database_url."
        )
    with connection._reraise_as_library_errors():
        connection.connect()  # tries once, while default_channel would retry
        channel: Any = connection.channel()
    pool = channel._get_pool()
    # With kombu's limit of ten, the eleventh concurrent thread would fail.
    pool.max_connections = _NO_LIMIT
    connection.release()
    return redis.Redis(connection_pool=pool)


def keys_of(app: Celery, key_prefix: str) -> Keys:
    """The keys, with the prefix, the steps and the separator of the broker's transport options."""
    options = app.conf.broker_transport_options
    return Keys(
        key_prefix,
        queue_prefix=options.get("global_keyprefix", ""),
        priority_steps=options.get("priority_steps", PRIORITY_STEPS),
        sep=options.get("sep", SEP),
    )


def broker_of(app: Celery) -> Connection:
    """The broker to which the application sends tasks.

    ``app.connection_for_write()`` needs ``app.amqp``, and this function runs while that is made.
    """
    return Connection(app.conf.broker_write_url, transport=app.conf.broker_transport)


def waiting_unsupported_reason(app: Celery, url: str | None) -> str:
    """Why no task can wait for a slot, or "" if tasks can wait.

    Tasks can wait if the scheduler's keys and the broker's messages are in one Redis database.
    """
    broker = broker_of(app)
    if broker.transport.driver_type == "redis" and (
        url is None or place_of(broker) == place_of(Connection(url))
    ):
        return ""
    shown_url = Connection(url).as_uri() if url else None
    return (
        "A task can wait for a slot only if the scheduler's keys and the broker's messages are in "
        "one Redis database, because both change in one step. Here the broker is "
        f"{broker.as_uri()} and minsched_database_url is {shown_url}."
    )


def places_of(connection: Connection) -> list[tuple[object, ...]]:
    """The places of a connection: the first, and those to which it may fail over."""
    return [place_of(connection), *(place_of(Connection(url)) for url in connection.alt)]


def place_of(connection: Connection) -> tuple[object, ...]:
    """Host, port and database of a connection."""
    database = str(connection.virtual_host or "0").strip("/") or "0"
    port = connection.port or getattr(connection.transport, "default_port", None)
    return (connection.hostname or "localhost", port, database)
