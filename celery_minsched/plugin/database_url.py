"""``minsched_database_url``, which holds a password, and its earlier name.

``celery inspect conf``, ``celery report`` and Flower show the configuration. Celery masks a setting
there by its name (``HIDDEN_SETTINGS`` in ``celery/app/utils.py``, seen in Celery 5.7). It masks
this name and not the earlier one. So the plugin removes the earlier one from the configuration.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu import Connection

NAME = "minsched_database_url"
EARLIER_NAME = "minsched_redis_url"


class _Without(Mapping[str, Any]):
    """A layer of the configuration without some of its keys.

    The layer may be the user's dictionary or module, and is not changed.
    """

    def __init__(self, layer: Mapping[str, Any], hidden: set[str]) -> None:
        self._layer = layer
        self._hidden = hidden

    def __getitem__(self, key: str) -> Any:
        if key in self._hidden:
            raise KeyError(key)
        return self._layer[key]

    def __iter__(self) -> Iterator[str]:
        return (key for key in self._layer if key not in self._hidden)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def plain_name(conf: Any, key: object) -> str:
    """A setting's name, in lower case and without the prefix of the configuration's keys.

    ``config_from_object(namespace="CELERY")`` leaves the key ``CELERY_MINSCHED_NODE_TTL``.
    """
    return str(key).lower().removeprefix((conf.prefix or "").lower())


def rename_earlier(conf: Any) -> None:
    """Rename the earlier setting, and remove it from every layer of ``app.conf``."""
    names = [
        {key for key in layer if plain_name(conf, key) == EARLIER_NAME} for layer in conf.maps[:-1]
    ]
    if not any(names):
        return
    url = conf.get(EARLIER_NAME)
    for at, (layer, hidden) in enumerate(zip(conf.maps, names, strict=False)):
        if at == 0:
            for key in hidden:
                del layer[key]
        elif hidden:
            conf.maps[at] = conf.defaults[at - 1] = _Without(layer, hidden)
    if NAME not in conf:
        conf[NAME] = url
    # If warnings are errors, this line raises. So it is the last one.
    warnings.warn(
        f"{EARLIER_NAME} is deprecated: Celery shows its password in `celery inspect conf`. "
        f"Rename it to {NAME}.",
        DeprecationWarning,
        stacklevel=2,
    )


def follow_configuration(app: Celery) -> None:
    """Rename the earlier setting whenever the application reads its configuration."""
    app.on_after_configure.connect(_on_configured, weak=False)
    if app.configured:
        rename_earlier(app.conf)


def _on_configured(source: Any, **_: Any) -> None:
    rename_earlier(source)


def check(url: str) -> None:
    """Raise ``ImproperlyConfigured`` for a URL that does not lead to Redis.

    The error does not show the URL: the wrong character is often in its password.
    """
    try:
        first = Connection(url)
        connections = [first, *map(Connection, first.alt)]
        is_redis = all(one.get_transport_cls().driver_type == "redis" for one in connections)
    except (ValueError, TypeError, LookupError, AttributeError, ImportError):
        is_redis = False
    if not is_redis or "://" not in url:
        raise ImproperlyConfigured(
            f"{NAME} is not the URL of a Redis server. Write redis://USER:PASSWORD@HOST:6379/0, "
            "with the password percent-encoded."
        )
