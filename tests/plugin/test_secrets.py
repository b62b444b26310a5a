"""No output of a program shows the password in the scheduler's URL."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.app.utils import bugreport
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from redis.exceptions import AuthenticationError

from celery_minsched import MinSched, Settings
from celery_minsched.plugin.database_url import EARLIER_NAME, NAME

from ..support.commands import run_with
from ..support.server import Server, free_port

PASSWORD = "s3cret"
URL = f"redis://default:{PASSWORD}@127.0.0.1:6379/0"


def make_app(**conf: Any) -> Celery:
    app = Celery("secrets", broker="memory://", set_as_current=False)
    app.conf.update({"minsched_when_full": "error", **conf})
    return app


def shown(app: Celery) -> str:
    """The configuration as ``celery inspect conf`` and ``celery report`` show it."""
    tables = [str(app.conf.table(with_defaults)) for with_defaults in (True, False)]
    return "\n".join([bugreport(app), app.conf.humanize(), *tables])


def by_attribute(app: Celery, name: str) -> None:
    setattr(app.conf, name, URL)


def by_update(app: Celery, name: str) -> None:
    app.conf.update({name: URL})


def by_defaults(app: Celery, name: str) -> None:
    app.add_defaults({name: URL})


def by_object(app: Celery, name: str) -> None:
    app.config_from_object({name: URL})


def by_module(app: Celery, name: str) -> None:
    app.config_from_object("secret_settings")


def by_namespace(app: Celery, name: str) -> None:
    app.config_from_object({f"CELERY_{name.upper()}": URL}, namespace="CELERY")


WAYS = (by_attribute, by_update, by_defaults, by_object, by_module, by_namespace)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A configuration module."""
    module = ModuleType("secret_settings")
    monkeypatch.setitem(sys.modules, "secret_settings", module)
    return module


@pytest.mark.parametrize("name", [NAME, EARLIER_NAME])
@pytest.mark.parametrize("is_configured", [False, True], ids=["lazy", "configured"])
@pytest.mark.parametrize("configure", WAYS)
def test_celery_shows_no_password(
    configure: Callable[[Celery, str], None], is_configured: bool, name: str, module: ModuleType
) -> None:
    """This holds for each way to configure Celery, before and after the setting is read."""
    setattr(module, name, URL)
    app = make_app()
    configure(app, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if is_configured:
            assert app.conf.broker_url == "memory://"
        MinSched(app)
        assert PASSWORD not in shown(app)
        assert app.minsched.settings.database_url == URL
    texts = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    assert (f"Rename it to {NAME}" in "".join(texts)) is (name == EARLIER_NAME)
    assert getattr(module, name) == URL  # the user's own module is not changed


def test_a_setting_that_is_set_late_is_renamed_when_it_is_read() -> None:
    app = make_app()
    MinSched(app)
    assert app.conf.broker_url == "memory://"
    app.conf.minsched_redis_url = URL
    with pytest.warns(DeprecationWarning, match="minsched_redis_url is deprecated"):
        assert app.minsched.settings.database_url == URL
    assert PASSWORD not in shown(app)


def test_the_new_name_wins_over_the_earlier_name() -> None:
    app = make_app(minsched_redis_url=URL, minsched_database_url="redis://elsewhere/0")
    with pytest.warns(DeprecationWarning, match=EARLIER_NAME):
        assert MinSched(app).settings.database_url == "redis://elsewhere/0"
    assert PASSWORD not in shown(app)


def test_two_applications_may_share_one_dictionary() -> None:
    shared = {EARLIER_NAME: URL}
    for _ in range(2):
        app = make_app()
        app.config_from_object(shared)
        with pytest.warns(DeprecationWarning, match=EARLIER_NAME):
            assert MinSched(app).settings.database_url == URL


@pytest.mark.parametrize(
    "url",
    [
        [URL],
        {"url": URL},
        "",
        PASSWORD,
        f"u:{PASSWORD}@127.0.0.1:6379",
        f"redis:/:{PASSWORD}@127.0.0.1:6379/0",
        f"redis://:{PASSWORD}/more@127.0.0.1:6379/0",
        f"redis://:{PASSWORD}#more@127.0.0.1:6379/0",
        f"redis://:more[{PASSWORD}@127.0.0.1:6379/0",
        f"redis://127.0.0.1:6379/0;redis://:{PASSWORD}/more@127.0.0.1:6379/0",
        f"redis://127.0.0.1/0?password={PASSWORD}",
        f"redis{PASSWORD}://127.0.0.1/0",
        f"amqp://u:{PASSWORD}@127.0.0.1//",
    ],
)
def test_a_wrong_url_is_not_shown(url: object) -> None:
    app = make_app(minsched_database_url=url)
    MinSched(app)
    with pytest.raises(ImproperlyConfigured, match=NAME) as caught:
        _ = app.minsched.scheduler
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    answer = run_with(app, "nodes")
    assert (answer.exit_code, NAME in answer.output) == (2, True)
    assert PASSWORD not in answer.output


def test_another_wrong_setting_does_not_show_the_url() -> None:
    app = make_app(minsched_database_url=URL, minsched_node_ttl=1, minsched_lease="long")
    with pytest.raises(ImproperlyConfigured) as caught:
        _ = MinSched(app).settings
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_no_repr_shows_the_url(server: Server) -> None:
    app = make_app(minsched_database_url=f"redis://default:{PASSWORD}@127.0.0.1:{server.port}/0")
    plugin = MinSched(app)
    scheduler = plugin.scheduler
    for value in (plugin, plugin.settings, scheduler, scheduler.settings, plugin.views):
        assert PASSWORD not in f"{value!r} {value}"
    assert PASSWORD not in repr(Settings(database_url=URL))


def test_no_connection_error_shows_the_url(
    caplog: pytest.LogCaptureFixture, no_pauses: None
) -> None:
    """An unreachable server, a server with another password, and a server besides the broker."""
    away = make_app(minsched_database_url=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    MinSched(away)
    with pytest.raises(OperationalError) as refused:
        _ = away.minsched.scheduler
    server = Server("--requirepass", "another")
    try:
        wrong = make_app(minsched_database_url=f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")
        MinSched(wrong)
        with pytest.raises((OperationalError, AuthenticationError)) as denied:
            _ = wrong.minsched.scheduler
        answers = [run_with(app, "nodes").output for app in (away, wrong)]
    finally:
        server.close()
    apart = make_app(minsched_database_url=URL, minsched_when_full="wait")
    MinSched(apart)
    with pytest.raises(ImproperlyConfigured, match="one Redis database") as waits:
        _ = apart.minsched.scheduler
    errors = [refused.value, denied.value, waits.value]
    tracebacks = "".join("".join(traceback.format_exception(error)) for error in errors)
    assert PASSWORD not in tracebacks + "".join(answers) + caplog.text
