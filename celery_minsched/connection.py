"""The scheduler's own Redis client, made as kombu makes its.

kombu turns a broker URL and its transport options (TLS, password, database, unix socket, Sentinel,
credential provider) into a connection pool in ``Channel._get_pool`` (seen in kombu 5.7). That
name is private, so it is used in this module only; the client takes a pool of its own, with
time-outs, since kombu waits for ever by default.
"""

from __future__ import annotations

from typing import Any

import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu import Connection

#: Seconds. kombu has none by default; a call of the scheduler must come back.
SOCKET_TIMEOUT = 5.0


def _connection(app: Celery, url: str | None) -> Connection:
    """A kombu connection with the broker's settings, not yet connected."""
    timeouts = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
    options = {**timeouts, **app.conf.broker_transport_options}
    if url is None:
        connection: Connection = app.connection_for_write(transport_options=options)
        return connection
    return Connection(url, transport_options=options, ssl=app.conf.redis_backend_use_ssl or None)


def client_of(app: Celery, url: str | None) -> redis.Redis:
    """A Redis client for the application's broker, or for ``url``.

    Raises ``ImproperlyConfigured`` where the broker is not Redis, and kombu's ``OperationalError``
    where the server cannot be reached.
    """
    connection = _connection(app, url)
    if connection.transport.driver_type != "redis":
        raise ImproperlyConfigured(
            f"The scheduler keeps its state in Redis, and the broker {connection.as_uri()} is not "
            "Redis. Set minsched_redis_url."
        )
    with connection._reraise_as_library_errors():
        channel: Any = connection.default_channel
    pool = channel._get_pool()
    connection.release()
    return redis.Redis(connection_pool=pool)


def queue_prefix(app: Celery) -> str:
    """kombu's ``global_keyprefix``: what stands before every key of the broker."""
    return str(app.conf.broker_transport_options.get("global_keyprefix", ""))
