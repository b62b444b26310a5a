"""Settings. An error names the setting. Some settings do not support waiting."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_minsched import InvalidDemand, MinSched, Settings
from celery_minsched.core.demand import Demand
from celery_minsched.core.job_fields import STORED_NAMES

from ..support.desk import Desk
from ..support.fleet import ROOT

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
        (
            {"minsched_node_ttl": 3.9},
            "heartbeat_interval 1.0 s is more than a quarter of node_ttl 3.9 s: one lost "
            "connection would make a live node dead. Set heartbeat_interval to 0.975 or less, or "
            "node_ttl to 4 or more.",
        ),
        ({"minsched_node_ttl": float("inf")}, "minsched_node_ttl = inf"),
        ({"minsched_lease": 2}, "lease 2.0 s is shorter than node_ttl 8.0 s"),
        (
            {"minsched_history_ttl": 59},
            "history_ttl 59.0 s is shorter than twice the lease 30.0 s: the record of a running "
            "job would be deleted between two renewals of its lease. Set history_ttl to 60 or more",
        ),
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


@pytest.mark.parametrize(
    ("node_ttl", "interval"), [(8.0, 1.0), (8.0, 2.0), (2.0, 0.5), (0.4, 0.1), (86400.0, 60.0)]
)
def test_a_node_survives_one_lost_connection(node_ttl: float, interval: float) -> None:
    """One heartbeat times out, and the next goes over a new connection."""
    settings = Settings(
        node_ttl=node_ttl, heartbeat_interval=interval, lease=86400, history_ttl=2 * 86400
    )
    silence = interval + settings.pulse_timeout + interval
    assert silence + node_ttl / 4 <= node_ttl


def test_a_setting_has_effect_however_celery_is_configured() -> None:
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
def test_waiting_is_refused_if_messages_and_keys_are_apart(broker: str, url: str | None) -> None:
    app = plugin(broker, minsched_database_url=url).app
    assert app.amqp  # nothing is checked before the scheduler is needed
    with pytest.raises(ImproperlyConfigured, match="minsched_when_full = 'error'"):
        app.send_task("t", minsched={"pool": "asr"})  # before a message is sent
    with pytest.raises(ImproperlyConfigured, match="minsched_when_full = 'error'"):
        _ = app.minsched.scheduler  # as a node starts
    assert plugin(broker, minsched_database_url=url, minsched_when_full="error").app.amqp


def test_a_demand_that_would_wait_is_refused_if_messages_and_keys_are_apart() -> None:
    """A route, a task and a call can have this demand. No message is sent."""
    apart = {"minsched_database_url": REDIS, "minsched_when_full": "error"}
    waits = {"pool": "asr", "when_full": "wait"}
    by_route = plugin("memory://", **apart, minsched_routes={"speech.*": waits}).app
    with pytest.raises(ImproperlyConfigured, match=r"Set minsched_routes\['speech"):
        by_route.send_task("speech.t")
    app = plugin("memory://", **apart).app

    @app.task(name="by_task", minsched=waits)
    def by_task() -> None: ...

    for send in (by_task.delay, lambda: app.send_task("by_call", minsched=waits)):
        with pytest.raises(InvalidDemand, match=r"when_full.*in one Redis database"):
            send()


def test_the_broker_and_the_database_may_have_the_same_url() -> None:
    assert plugin(REDIS, minsched_database_url=REDIS).settings.when_full == "wait"


def test_a_broker_that_is_not_redis_needs_a_url_for_the_scheduler() -> None:
    with pytest.raises(ImproperlyConfigured, match="Set minsched_database_url"):
        _ = plugin("memory://", minsched_when_full="error").scheduler


def test_the_readme_lists_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `minsched_(\w+)` \| (\S+)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    defaults = dict(rows)
    assert defaults.keys() == Settings.model_fields.keys()
    for name, default in defaults.items():
        value = Settings.model_fields[name].default
        assert default == (f"{value:g}" if isinstance(value, float) else str(value))


def test_the_readme_lists_every_key_of_a_demand() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("| key | meaning |\n| --- | --- |\n")[2].partition("\n\n")[0]
    keys = [key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(keys) == sorted(Demand.model_fields)


def test_every_key_of_a_demand_is_stored_with_the_job(desk: Desk, client: redis.Redis) -> None:
    """The pool is in ``where``. ``when_full`` matters before the job has a record."""
    text = {"affinity": "require", "capabilities": ["gpu"], "when_full": "wait"}
    demand = {name: text.get(name, "x") for name in Demand.model_fields}
    job_id = desk.send(**demand).job_id
    stored = client.hgetall(desk.service.keys("job", job_id))
    names = {STORED_NAMES.get(name, "where") for name in demand if name != "when_full"}
    assert {name: stored.get(name) for name in names} == {
        **dict.fromkeys(names, "x"),
        "where": "x=x:x",
        "affinity": "require",
        "caps": "gpu",
    }


def test_a_delayed_task_takes_a_slot_if_it_cannot_wait(client: redis.Redis) -> None:
    """No script can move its message from another database."""
    url = client.connection_pool.connection_kwargs["port"]
    app = plugin(
        f"redis://127.0.0.1:{url}/1",
        minsched_database_url=f"redis://127.0.0.1:{url}/0",
        minsched_when_full="error",
    ).app
    Desk(app.minsched.scheduler).node("n1")
    app.send_task("any", task_id="later", countdown=60, minsched={"pool": "asr"})
    job = app.minsched.find_job("later")
    assert (job.node_id, job.status) == ("n1", "dispatched")
    with redis.Redis(port=url, db=1) as broker:
        assert broker.llen("minsched.node.n1") == 1
