"""The files for Prometheus, Grafana, KEDA and Docker use existing metrics, labels and options."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import yaml

from ..support.desk import Desk
from ..support.fleet import ROOT
from ..support.scrape import Scrape, busy, scrape

DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\bminsched_\w+")
SELECTOR = re.compile(r"(minsched_\w+)\{([^}]*)\}")
AGGREGATION = re.compile(r"\b(?:by|on) \(([^)]*)\)")
#: A metric in a function of PromQL that needs a counter.
RATED = re.compile(r"(?:rate|increase|irate)\((minsched_\w+)(?:\{[^}]*\})?\[\w+\]\)")


@pytest.fixture
def metrics(desk: Desk) -> Scrape:
    busy(desk)
    return scrape(desk.views)


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def keda_trigger() -> dict[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "keda-scaledobject.yaml").read_text())
    assert loaded["kind"] == "ScaledObject"
    assert loaded["spec"]["minReplicaCount"] == 0
    [trigger] = loaded["spec"]["triggers"]
    return dict(trigger)


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield keda_trigger()["metadata"]["query"]


def test_every_expression_uses_existing_metrics_and_labels(metrics: Scrape) -> None:
    labels = {sample.name: set(sample.labels) for sample in metrics.samples}
    for expression in expressions():
        names = set(NAME.findall(expression))
        assert names, expression
        assert names <= labels.keys(), expression
        for name, matchers in SELECTOR.findall(expression):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name], expression
        for group in AGGREGATION.findall(expression):
            known_labels = {"instance"}.union(*(labels[name] for name in names))
            assert set(group.split(", ")) <= known_labels, expression


def test_counters_are_read_as_rates_and_gauges_are_not(metrics: Scrape) -> None:
    counters = {
        sample.name
        for family in metrics.families.values()
        for sample in family.samples
        if family.type in ("counter", "histogram")
    }
    for expression in expressions():
        names = set(NAME.findall(expression))
        assert names & counters == set(RATED.findall(expression)), expression


def test_every_metric_except_node_info_is_used(metrics: Scrape) -> None:
    shown_names = set(NAME.findall(" ".join(expressions())))
    unseen = {sample.name for sample in metrics.samples} - shown_names
    assert {name for name in unseen if not name.endswith("_created")} <= {"minsched_node_info"}


def test_every_metric_is_in_the_documentation(metrics: Scrape) -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text()
    for row in text.splitlines():
        names = re.findall(r"`(minsched_\w+|_\w+)`", row.partition(" | ")[0])
        if names and names[0].startswith("minsched_"):
            stem = re.match(r"minsched_[a-z]+", names[0])
            assert stem
            text += "".join(f"`{stem[0]}{name}`" for name in names if name.startswith("_"))
    for name, family in metrics.families.items():
        assert f"`{name}{'_total' * (family.type == 'counter')}`" in text, name


def test_each_alert_has_a_duration_a_severity_and_a_description() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 10
    for rule in rules():
        assert rule["alert"].startswith("Minsched")
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_the_text_of_an_alert_uses_labels_of_its_expression(metrics: Scrape) -> None:
    labels = {sample.name: set(sample.labels) for sample in metrics.samples}
    for rule in rules():
        used_labels = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        names = NAME.findall(rule["expr"])
        remaining_labels = {"instance"}.union(*(labels[name] for name in names))
        for group in AGGREGATION.findall(rule["expr"]):
            remaining_labels = set(group.split(", "))
        assert used_labels <= remaining_labels, rule["alert"]


def test_alerts_name_existing_commands() -> None:
    text = (DEPLOY / "prometheus-alerts.yml").read_text()
    named = set(re.findall(r"celery -A app minsched (\w+)", text))
    assert named <= {"exporter", "waiting", "why", "events", "resume"}


def test_the_dashboard_has_its_rows_and_a_variable_for_the_datasource() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Fleet", "Pools", "Waiting", "Jobs", "Redis"]
    sources = {panel["datasource"]["uid"] for panel in panels()}
    assert sources == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not any(overlap(one, other) for one, other in combinations(places, 2))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_keda_scales_by_the_load_of_the_pool() -> None:
    trigger = keda_trigger()
    assert (trigger["type"], trigger["metricType"]) == ("prometheus", "Value")
    assert trigger["metadata"]["ignoreNullValues"] == "true"
    assert "minsched_pool_load_ratio" in trigger["metadata"]["query"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_finds_no_error(metrics: Scrape) -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", "prometheus-alerts.yml"],
        cwd=DEPLOY,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


class TestCompose:
    """The text of docker-compose.yml. The tests in tests/containers run it."""

    @pytest.fixture
    def services(self) -> dict[str, Any]:
        loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        return dict(loaded["services"])

    def test_containers_are_read_only_and_have_no_capabilities(
        self, services: dict[str, Any]
    ) -> None:
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name

    def test_redis_and_flower_require_passwords_that_are_not_in_the_file(
        self, services: dict[str, Any]
    ) -> None:
        assert "--requirepass ${REDIS_PASSWORD}" in services["redis"]["command"]
        assert "ports" not in services["redis"]
        environment = services["flower"]["environment"]
        assert environment["FLOWER_BASIC_AUTH"].startswith("flower:${FLOWER_PASSWORD:?")
        assert "FLOWER_UNAUTHENTICATED_API" not in environment
        assert all(port.startswith("127.0.0.1:") for port in services["flower"]["ports"])
        for name in services.keys() - {"redis"}:
            url = services[name]["environment"]["DEMO_BROKER"]
            assert url.startswith("redis://:${REDIS_PASSWORD:?"), name

    def test_images_have_exact_versions_and_can_be_replaced(self, services: dict[str, Any]) -> None:
        argument = services["large"]["build"]["args"]["PYTHON_IMAGE"]
        of_python = re.fullmatch(r"\$\{PYTHON_IMAGE:-(python:\d+\.\d+\.\d+-slim)\}", argument)
        assert of_python
        assert (
            f"ARG PYTHON_IMAGE={of_python[1]}\nFROM ${{PYTHON_IMAGE}}\n"
            in (ROOT / "Dockerfile").read_text()
        )
        image = services["redis"]["image"]
        assert re.fullmatch(r"\$\{REDIS_IMAGE:-redis:\d+\.\d+\.\d+\}", image)
