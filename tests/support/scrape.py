"""A scrape of the scheduler's metrics."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from celery_minsched import NoAvailableNode
from celery_minsched.monitor.metrics import SchedulerCollector
from celery_minsched.monitor.queries import Views

from .desk import Desk

Labels = dict[str, str]


class Scrape:
    """One scrape, parsed by prometheus_client."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(text)
        }
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def of(self, name: str) -> list[Labels]:
        """The labels of all series of a metric."""
        return [sample.labels for sample in self.samples if sample.name == name]

    def value(self, name: str, **labels: str) -> float:
        [value] = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return float(value)


def scrape(views: Views) -> Scrape:
    registry = CollectorRegistry()
    registry.register(SchedulerCollector(lambda: views))
    return Scrape(generate_latest(registry).decode())


def busy(desk: Desk) -> None:
    """Nodes, pools and jobs for each metric."""
    desk.node("n1", 2, caps=["gpu"])
    desk.node("n2", 1, ["asr", "mt"])
    desk.beat("n1", load_json='{"cpu": 50, "gpu": 25, "disk": "full"}', jobs=None)
    first = desk.dispatch(session_id="u1")
    for _ in range(2):
        desk.dispatch()
    with pytest.raises(NoAvailableNode):
        desk.dispatch()
    for _ in range(3):
        desk.park(session_id="u2")
    desk.park(capabilities=["tpu"])
    desk.complete(first, "failed")
