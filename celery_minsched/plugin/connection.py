"""The scheduler's own Redis client, made as kombu makes its.

kombu turns a broker URL and its transport options (TLS, password, database, unix socket, Sentinel,
credential provider) into a connection pool in ``Channel._get_pool`` (seen in kombu 5.7). That
name is private, so it is used in this module only; the client takes a pool of its own, with
time-outs, since kombu waits for ever by default.
"""

from __future__ import annotations

import socket
from typing import Any

import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu import Connection

from ..core.keys import PRIORITY_STEPS, SEP, Keys
from ..core.settings import SOCKET_TIMEOUT, given_settings

#: Seconds of silence after which the kernel asks whether the other side is there, seconds between
#: two such questions, and how many stay unanswered. Some firewalls forget a flow that says nothing
#: for a minute.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}

#: redis-py's own default.
_NO_LIMIT = 2**31


def with_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Transport options for Redis, with time-outs and keepalive unless the user set them."""
    names = {name: value for name, value in _KEEPALIVE.items() if hasattr(socket, name)}
    return {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "socket_keepalive": True,
        "socket_keepalive_options": {getattr(socket, name): n for name, n in names.items()},
        **options,
    }


def limit(connection: Connection) -> Connection:
    """The connection to a broker, not yet connected, so that no call over it waits for ever."""
    if connection.get_transport_cls().driver_type == "redis":
        connection.transport_options = with_limits(connection.transport_options or {})
    return connection


def result_options(app: Celery) -> dict[str, Any]:
    """Settings of Celery's Redis result backend that the user left open.

    Its time-out stays at Celery's (5.7) 120 s: a task whose result cannot be stored has failed.
    """
    wanted = {
        "redis_socket_connect_timeout": app.conf.redis_socket_timeout,
        # Celery (5.7) would hand it to a connection over a Unix socket, which does not know it.
        "redis_socket_keepalive": "socket://" not in str(app.conf.result_backend),
    }
    given = given_settings(app)
    return {name: value for name, value in wanted.items() if name not in given}


def _connection(app: Celery, url: str | None, timeout: float | None) -> Connection:
    """A kombu connection with the broker's settings, not yet connected."""
    options = with_limits(app.conf.broker_transport_options)
    if timeout is not None:
        for name in ("socket_timeout", "socket_connect_timeout"):
            options[name] = min(timeout, options[name] or timeout)
    if url is None:
        connection: Connection = app.connection_for_write(transport_options=options)
        return connection
    return Connection(url, transport_options=options, ssl=app.conf.redis_backend_use_ssl or None)


def client_of(app: Celery, url: str | None, timeout: float | None = None) -> redis.Redis:
    """A Redis client for the application's broker, or for ``url``. Its calls take ``timeout``
    seconds at most, if that is given.

    Raises ``ImproperlyConfigured`` where the broker is not Redis, and kombu's ``OperationalError``
    where the server cannot be reached.
    """
    connection = _connection(app, url, timeout)
    if connection.transport.driver_type != "redis":
        raise ImproperlyConfigured(
            f"The scheduler keeps its state in Redis, and the broker {connection.as_uri()} is not "
            "Redis. Set minsched_database_url."
        )
    with connection._reraise_as_library_errors():
        connection.connect()  # once; default_channel would try for its connect_timeout, three times
        channel: Any = connection.channel()
    pool = channel._get_pool()
    # kombu's limit, ten, makes the eleventh thread fail that asks at the same time.
    pool.max_connections = _NO_LIMIT
    connection.release()
    return redis.Redis(connection_pool=pool)


def keys_of(app: Celery, key_prefix: str) -> Keys:
    """The keys, with what the broker's transport options say of keys and lists."""
    options = app.conf.broker_transport_options
    return Keys(
        key_prefix,
        queue_prefix=options.get("global_keyprefix", ""),
        priority_steps=options.get("priority_steps", PRIORITY_STEPS),
        sep=options.get("sep", SEP),
    )


def broker_of(app: Celery) -> Connection:
    """The broker to which tasks are sent. Not ``app.connection_for_write()``: that needs
    ``app.amqp``, which is being made when this is asked.
    """
    return Connection(app.conf.broker_write_url, transport=app.conf.broker_transport)


def why_not_wait(app: Celery, url: str | None) -> str:
    """Why no task can wait for a slot; "" where it can: the scheduler's keys and the broker's
    messages are in one Redis database.
    """
    broker = broker_of(app)
    if broker.transport.driver_type == "redis" and (
        url is None or place_of(broker) == place_of(Connection(url))
    ):
        return ""
    own = Connection(url).as_uri() if url else None
    return (
        "A task can wait for a slot only where the scheduler's keys and the broker's messages are "
        "in one Redis database, since both change in one step. Here the broker is "
        f"{broker.as_uri()} and minsched_database_url is {own}."
    )


def places_of(connection: Connection) -> list[tuple[object, ...]]:
    """The place to which the connection leads, and those to which it may fail over."""
    return [place_of(connection), *(place_of(Connection(url)) for url in connection.alt)]


def place_of(connection: Connection) -> tuple[object, ...]:
    """Server and database to which a connection leads."""
    database = str(connection.virtual_host or "0").strip("/") or "0"
    port = connection.port or getattr(connection.transport, "default_port", None)
    return (connection.hostname or "localhost", port, database)
