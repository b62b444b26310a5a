"""Reads the ``minsched_*`` settings from the configuration of a Celery application."""

from __future__ import annotations

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..core.describe import did_you_mean, sentence_of
from ..core.settings import PREFIX, Settings
from . import database_url


def configured_names(app: Celery) -> set[str]:
    """The names of the settings that the user has set, in lower case."""
    conf = app.conf
    _ = conf.broker_url  # Celery fills conf.maps when a setting is read for the first time
    return {database_url.plain_name(conf, key) for layer in conf.maps[:-1] for key in layer}


def read_settings(app: Celery) -> Settings:
    """The settings of a Celery application.

    Raises ``ImproperlyConfigured`` for an unknown setting and for a wrong value.
    """
    _ = app.conf.broker_url  # Celery reads the configuration when a setting is read
    database_url.rename_earlier(app.conf)
    values = {
        name.removeprefix(PREFIX): app.conf[name]
        for name in configured_names(app)
        if name.startswith(PREFIX)
    }
    for name in values:
        if name not in Settings.model_fields:
            hint = did_you_mean(name, Settings.model_fields, prefix=PREFIX)
            raise ImproperlyConfigured(f"There is no setting {PREFIX}{name}.{hint}")
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        raise ImproperlyConfigured(sentence_of(exc, _name_and_value)) from exc
    if settings.database_url is not None:
        database_url.check(settings.database_url)
    return settings


def _name_and_value(error: ErrorDetails) -> str:
    """The setting of an error. Its value is shown unless it may hold a password."""
    name = PREFIX + ".".join(map(str, error["loc"]))
    return name if name == database_url.NAME else f"{name} = {error['input']!r}"
