"""Settings: checked, with a message that names the setting; where waiting is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_minsched import MinSched, Settings

from .fleet import ROOT

REDIS = "redis://localhost:6379/0"


def plugin(broker: str = REDIS, **conf: Any) -> MinSched:
    app = Celery("settings", broker=broker, set_as_current=False)
    app.conf.update(conf)
    return MinSched(app)


@pytest.mark.parametrize(
    ("conf", "says"),
    [
        (
            {"minsched_node_tll": 3},
            "There is no setting minsched_node_tll. Did you mean minsched_node_ttl",
        ),
        ({"minsched_node_ttl": "soon"}, "minsched_node_ttl = 'soon'"),
        ({"minsched_node_ttl": -1}, "minsched_node_ttl = -1"),
        ({"minsched_node_ttl": 1}, "heartbeat_interval 1.0 s is more than half of node_ttl 1.0 s"),
        ({"minsched_lease": 2}, "lease 2.0 s is shorter than node_ttl"),
        ({"minsched_key_prefix": "a b"}, "minsched_key_prefix = 'a b'"),
        ({"minsched_when_full": "later"}, "minsched_when_full = 'later'"),
        ({"minsched_max_waiting": 0}, "minsched_max_waiting = 0"),
        ({"minsched_routes": {"a.*": "asr"}}, "minsched_routes"),
    ],
)
def test_a_wrong_setting_is_named(conf: dict[str, Any], says: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        _ = plugin(**conf).settings
    assert says in str(caught.value)


def test_a_setting_counts_however_celery_is_configured() -> None:
    by_attribute = Celery("a", broker=REDIS, set_as_current=False)
    by_attribute.conf.minsched_node_ttl = 5
    by_object = Celery("b", broker=REDIS, set_as_current=False)
    by_object.config_from_object({"minsched_node_ttl": 5})
    by_namespace = Celery("c", broker=REDIS, set_as_current=False)
    by_namespace.config_from_object({"CELERY_MINSCHED_NODE_TTL": 5}, namespace="CELERY")
    for app in (by_attribute, by_object, by_namespace):
        assert MinSched(app).settings.node_ttl == 5


@pytest.mark.parametrize(
    ("broker", "url"),
    [
        ("amqp://localhost", None),
        ("amqp://localhost", REDIS),
        (REDIS, "redis://localhost:6379/1"),
        (REDIS, "redis://elsewhere:6379/0"),
    ],
)
def test_waiting_is_refused_where_messages_and_keys_are_apart(broker: str, url: str | None) -> None:
    app = plugin(broker, minsched_redis_url=url).app
    with pytest.raises(ImproperlyConfigured, match="minsched_when_full = 'error'"):
        _ = app.amqp  # before anything is sent
    assert plugin(broker, minsched_redis_url=url, minsched_when_full="error").app.amqp


def test_the_same_place_may_be_named_twice() -> None:
    assert plugin(REDIS, minsched_redis_url=REDIS).settings.when_full == "wait"


def test_a_broker_that_is_not_redis_needs_a_url_for_the_scheduler() -> None:
    with pytest.raises(ImproperlyConfigured, match="Set minsched_redis_url"):
        _ = plugin("memory://", minsched_when_full="error").scheduler


def test_the_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `minsched_(\w+)` \| (\S+)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    told = dict(rows)
    assert told.keys() == Settings.model_fields.keys()
    for name, default in told.items():
        value = Settings.model_fields[name].default
        assert default == (f"{value:g}" if isinstance(value, float) else str(value))
